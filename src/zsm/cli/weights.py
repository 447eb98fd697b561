"""Fetch the released checkpoint.

`zsm weights fetch` downloads it into the cache once, verifies it, and prints its path:
zsm-export --weights "$(zsm weights fetch)" --out bundle
"""

import argparse
import sys

from zsm.cli import options

SUMMARY = "fetch the released weights"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["fetch"], help="what to do")
    parser.add_argument("--url", help="fetch the same file from another place")
    options.add_json(parser)


def execute(args: argparse.Namespace) -> int:
    import json

    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TimeRemainingColumn

    from zsm.export import released

    console = Console(stderr=True)
    with Progress(*Progress.get_default_columns()[:2], DownloadColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(released.FILE, total=None)
        path = released.fetch(
            released.URL if args.url is None else args.url,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if args.json:
        print(json.dumps({"path": str(path), "licence": released.LICENCE}, indent=1))
        return 0
    print(f"licence of these weights: {released.LICENCE}", file=sys.stderr)
    print(path)
    return 0
