"""List or delete what was built on this machine: TensorRT's engines and timing caches, OpenVINO's models."""

import argparse

from zsm.cli import options

SUMMARY = "list or delete built engines"


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    options.add_json(actions.add_parser("list", help="list the engines"))
    options.add_json(actions.add_parser("clear", help="delete all engines, timing caches, and OpenVINO's models"))


def execute(args: argparse.Namespace) -> int:
    return _list(as_json=args.json) if args.action == "list" else _clear(as_json=args.json)


def _list(*, as_json: bool) -> int:
    import json
    import time
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from zsm.engine.backends.tensorrt.cache import EngineCache

    cache = EngineCache()
    entries = cache.entries()
    if as_json:
        print(json.dumps([asdict(entry) for entry in entries], indent=1))
        return 0
    table = Table(title=f"{len(entries)} engines in {cache.folder}", title_justify="left", box=None)
    for column in ("engine", "stage", "precision", "sizes", "GPU", "TensorRT", "built", "MiB", ""):
        table.add_column(column)
    for entry in entries:
        key = entry.key
        low, high = (key.get("sizes", {}).get(name, "?") for name in ("min", "max"))
        table.add_row(
            entry.digest[:12],
            *(str(key.get(name, "?")) for name in ("stage", "precision")),
            low if low == high else f"{low} to {high}",
            *(str(key.get(name, "?")) for name in ("gpu", "tensorrt")),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.built)),
            f"{entry.bytes / 2**20:.1f}",
            "" if entry.sound else "[red]damaged: will be rebuilt[/]",
        )
    Console().print(table)
    return 0


def _clear(*, as_json: bool) -> int:
    import json
    from dataclasses import asdict

    from zsm.engine.backends.tensorrt.cache import EngineCache

    cleared = EngineCache().clear()
    if as_json:
        print(json.dumps(asdict(cleared), indent=1))
        return 0
    print(
        f"deleted {cleared.files} engines, {cleared.bytes / 2**20:.1f} MiB with the timing caches and OpenVINO's models"
    )
    for digest in cleared.in_use:
        print(f"kept {digest}: it is being built at the moment")
    return 0
