"""Check what works on this machine, and say how to fix the rest. The exit status is 0 if `zsm run` works on the CPU."""

import argparse
from dataclasses import asdict

from zsm.cli import FAILED, options

SUMMARY = "check what works on this machine, and say how to fix the rest"


def configure(parser: argparse.ArgumentParser) -> None:
    options.add_json(parser)


def execute(args: argparse.Namespace) -> int:
    import json

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from zsm.doctor import examine

    checks = examine()
    failed = [check for check in checks if check.needed and not check.works]
    status = FAILED if failed else 0
    if args.json:
        print(json.dumps([asdict(check) for check in checks], indent=1))
        return status
    table = Table(box=None, show_header=False)
    for check in checks:
        mark = "[green]works[/]" if check.works else "[red]broken[/]" if check.needed else "[yellow]absent[/]"
        text = check.found + (f"\n{check.fix}" if check.fix and not check.works else "")
        table.add_row(mark, escape(check.name), escape(text))
    console = Console()
    console.print(table)
    console.print("zsm run on the CPU " + ("doesn't work yet: see above." if failed else "works."))
    return status
