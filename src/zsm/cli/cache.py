"""List or delete what zsm keeps on this machine.

PART is engines (TensorRT's), timing (TensorRT's kernel timings), openvino (compiled models), measured (what zsm bench
--compare took), finished (which job wrote which output, for zsm run --resume), or weights (fetched ones).
"""

import argparse
from collections.abc import Sequence

from zsm.cli import options

SUMMARY = "list or delete built engines and the rest of the cache"

BUILT = ("engines", "timing", "openvino")
PARTS = (*BUILT, "measured", "finished", "weights")


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    options.add_json(actions.add_parser("list", help="list the engines, and what the parts of the cache hold"))
    clear = actions.add_parser("clear", help="delete what was built, or the parts that are named")
    clear.add_argument(
        "parts",
        nargs="*",
        type=_part,
        default=BUILT,
        metavar="PART",
        help=f"any of {', '.join(PARTS)} (default: {', '.join(BUILT)})",
    )
    options.add_json(clear)


def _part(text: str) -> str:
    if text not in PARTS:
        raise argparse.ArgumentTypeError(f"the cache has no part {text!r}; choose {', '.join(PARTS)}")
    return text


def execute(args: argparse.Namespace) -> int:
    return _list(as_json=args.json) if args.action == "list" else _clear(args.parts, as_json=args.json)


def _list(*, as_json: bool) -> int:
    import json
    import time
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from zsm import files
    from zsm.engine.backends.tensorrt.cache import EngineCache

    cache = EngineCache()
    entries = cache.entries()
    parts = {part: files.content(files.cache_folder() / part) for part in PARTS}
    if as_json:
        sizes = {part: asdict(content) for part, content in parts.items()}
        print(json.dumps({"engines": [asdict(entry) for entry in entries], "parts": sizes}, indent=1))
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
    whole = Table(title=f"\nall of {files.cache_folder()}", title_justify="left", box=None)
    whole.add_column("part")
    for column in ("files", "MiB"):
        whole.add_column(column, justify="right")
    for part, content in parts.items():
        whole.add_row(part, str(content.files), f"{content.bytes / 2**20:.1f}")
    console = Console()
    console.print(table)
    console.print(whole)
    return 0


def _clear(parts: Sequence[str], *, as_json: bool) -> int:
    import json
    from dataclasses import asdict

    from zsm import files
    from zsm.engine.backends.tensorrt.cache import EngineCache

    cleared: dict[str, files.Content] = {}
    in_use: tuple[str, ...] = ()
    for part in dict.fromkeys(parts):
        if part == "engines":
            cleared[part] = engines = EngineCache().clear()
            in_use = engines.in_use
        else:
            cleared[part] = files.clear(files.cache_folder() / part)
    if as_json:
        print(json.dumps({part: asdict(content) for part, content in cleared.items()}, indent=1))
        return 0
    for part, content in cleared.items():
        print(f"{part}: deleted {content.files} files, {content.bytes / 2**20:.1f} MiB")
    for digest in in_use:
        print(f"kept {digest}: it is being built at the moment")
    return 0
