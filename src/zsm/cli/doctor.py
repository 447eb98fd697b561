"""Say what of zsm works on this machine, and how to get the rest to work.

The exit status is 0 if `zsm run` on the CPU works.
"""

import argparse
from dataclasses import asdict

SUMMARY = "say what works on this machine, and how to fix the rest"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def execute(args: argparse.Namespace) -> int:
    """Look, and print."""
    import json

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from zsm.doctor import examine

    checks = examine()
    failed = [check for check in checks if check.needed and not check.works]
    if args.json:
        print(json.dumps([asdict(check) for check in checks], indent=1))
        return bool(failed)
    table = Table(box=None)
    for column in ("", "", ""):
        table.add_column(column, overflow="fold")
    for check in checks:
        mark = "[green]works[/]" if check.works else "[red]broken[/]" if check.needed else "[yellow]absent[/]"
        text = check.found + (f"\n{check.fix}" if check.fix and not check.works else "")
        table.add_row(mark, escape(check.name), escape(text))
    console = Console()
    console.print(table)
    console.print("zsm run on the CPU " + ("doesn't work yet: see above." if failed else "works."))
    return bool(failed)
