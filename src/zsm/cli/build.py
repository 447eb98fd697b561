"""Build a bundle's TensorRT engines for a GPU, ahead of time. This takes minutes, once for each size or range.

Without sizes given, nothing is guessed: name the LR size with --size, or a range with --min, --opt and --max.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from zsm.errors import ArgumentError

if TYPE_CHECKING:
    from zsm.engine.bundle.shapes import SizeRange

SUMMARY = "build TensorRT engines"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("--device", default="cuda:0", help="cuda:N (default: %(default)s)")
    parser.add_argument("--size", metavar="WxH", help="the only LR size: the fastest engines")
    for name, text in (("min", "the smallest"), ("opt", "the one to be fastest at"), ("max", "the largest")):
        parser.add_argument(f"--{name}", metavar="WxH", help=f"of a range of LR sizes, {text}")
    parser.add_argument("--workspace", type=int, metavar="MIB", help="memory a layer may use for itself (all there is)")
    parser.add_argument("--tf32", action="store_true", help="compute float32 with 10 bits of mantissa: faster")
    parser.add_argument("--json", action="store_true", help="print JSON")


def execute(args: argparse.Namespace) -> int:
    """Build, with progress."""
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from zsm.engine import Bundle
    from zsm.engine.backends.tensorrt.build import BuildOptions, build_engines
    from zsm.engine.backends.tensorrt.progress import Progress as Step

    options = BuildOptions(sizes=_sizes(args), workspace=args.workspace, tf32=args.tf32)
    text = TextColumn("{task.percentage:.0f}%  {task.description}")
    console = Console(stderr=True)
    columns = (BarColumn(), text, TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1.0)

        def show(step: Step) -> None:
            left = "" if step.remaining is None else f", about {_clock(step.remaining)} to go"
            bar.update(task, completed=step.fraction, description=f"{step.stage or 'done'} {step.phase}{left}")

        built = build_engines(Bundle(args.bundle), args.device, options, show)
    if args.json:
        print(json.dumps([asdict(each) for each in built], indent=1))
        return 0
    for each in built:
        took = f"built in {_clock(each.seconds)}" if each.seconds else "was in the cache"
        print(f"{each.stage:16} {each.bytes / 2**20:8.1f} MiB  {took}")
    return 0


def _sizes(args: argparse.Namespace) -> "SizeRange":
    from zsm.engine.bundle.shapes import Size, SizeRange

    ends = (args.min, args.opt, args.max)
    if args.size and not any(ends):
        return SizeRange.only(Size.parse(args.size))
    if args.size or not all(ends):
        raise ArgumentError("give either --size WxH, or all of --min, --opt and --max")
    low, best, high = map(Size.parse, ends)
    return SizeRange(min=low, opt=best, max=high)


def _clock(seconds: float) -> str:
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"
