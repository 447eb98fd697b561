"""Build a bundle's TensorRT engines for a GPU, ahead of time. This takes minutes, once per frame size or range.

Give the LR frame size with --size, or a range of sizes with --min, --opt and --max.
"""

import argparse
from typing import TYPE_CHECKING

from zsm.cli import options

if TYPE_CHECKING:
    from zsm.engine.bundle.shapes import SizeRange

SUMMARY = "build TensorRT engines"


def configure(parser: argparse.ArgumentParser) -> None:
    options.add_bundle(parser)
    options.add_gpu(parser)
    parser.add_argument("--size", type=options.size, metavar="WxH", help="the only LR frame size: the fastest engines")
    for name, text in (("min", "smallest"), ("opt", "most frequent"), ("max", "largest")):
        parser.add_argument(
            f"--{name}", type=options.size, metavar="WxH", help=f"of a range of LR frame sizes, the {text}"
        )
    parser.add_argument(
        "--workspace", type=options.positive, metavar="MIB", help="scratch memory per layer (default: all there is)"
    )
    parser.add_argument("--tf32", action="store_true", help="compute float32 with 10 bits of mantissa: faster")
    options.add_json(parser)


def execute(args: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from zsm.engine import Bundle
    from zsm.engine.backends.tensorrt.build import BuildOptions, build_engines
    from zsm.engine.backends.tensorrt.progress import Progress as Step

    build_options = BuildOptions(sizes=_sizes(args), workspace=args.workspace, tf32=args.tf32)
    text = TextColumn("{task.percentage:.0f}%  {task.description}")
    console = Console(stderr=True)
    columns = (BarColumn(), text, TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1.0)

        def show(step: Step) -> None:
            left = "" if step.remaining is None else f", about {_clock(step.remaining)} left"
            bar.update(task, completed=step.fraction, description=f"{step.stage or 'done'} {step.phase}{left}")

        built = build_engines(Bundle(args.bundle), args.device, build_options, show)
    if args.json:
        print(json.dumps([asdict(each) for each in built], indent=1))
        return 0
    for each in built:
        took = f"built in {_clock(each.seconds)}" if each.seconds else "was in the cache"
        print(f"{each.stage:16} {each.bytes / 2**20:8.1f} MiB  {took}")
    return 0


def _sizes(args: argparse.Namespace) -> "SizeRange":
    from zsm.engine.bundle.shapes import SizeRange

    ends = (args.min, args.opt, args.max)
    if args.size and not any(ends):
        return SizeRange.only(args.size)
    if args.size or not all(ends):
        args.parser.error("give either --size WxH, or all of --min, --opt and --max")
    return SizeRange(min=args.min, opt=args.opt, max=args.max)


def _clock(seconds: float) -> str:
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"
