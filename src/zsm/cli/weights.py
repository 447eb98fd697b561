"""Get the released checkpoint.

`zsm weights fetch` downloads it into the cache (once), checks that it is what was released, and prints its
path, so that `zsm-export --weights "$(zsm weights fetch)" --out bundle` works.
"""

import argparse
import sys

SUMMARY = "fetch the released weights"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("action", choices=["fetch"], help="what to do")
    parser.add_argument(
        "--url", help="fetch from here instead of the project's own place; the content must be the same"
    )


def execute(args: argparse.Namespace) -> int:
    """Fetch; the path goes to standard output, everything else to standard error."""
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TimeRemainingColumn

    from zsm.export import released as weights

    console = Console(stderr=True)
    with Progress(*Progress.get_default_columns()[:2], DownloadColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(weights.FILE, total=None)
        path = weights.fetch(
            weights.URL if args.url is None else args.url,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print(f"licence of these weights: {weights.LICENCE}", file=sys.stderr)
    print(path)
    return 0
