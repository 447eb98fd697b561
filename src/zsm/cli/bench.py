"""Measure how fast a bundle is on this machine: seconds for each output frame, by stage, and memory."""

import argparse
from pathlib import Path

from zsm.cli.options import add_runtime_options, runtime_options

SUMMARY = "measure a bundle's speed"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("--size", default="112x64", help="LR size (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=4, help="input frames (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="how often (default: %(default)s)")
    parser.add_argument("--profile", action="store_true", help="measure every layer instead (stages one by one)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_runtime_options(parser)


def execute(args: argparse.Namespace) -> int:
    """Measure and print."""
    import json

    from zsm.engine import Runtime
    from zsm.engine.bundle.shapes import Size
    from zsm.engine.diagnose.bench import measure

    if args.profile:
        return _profile(args)
    with Runtime(args.bundle, **runtime_options(args)) as runtime:
        result = measure(runtime, Size.parse(args.size), args.frames, args.repeats)
    if args.json:
        print(json.dumps(result, indent=1))
        return 0
    seconds = result["seconds_per_output"]
    print(f"{result['size']}, {result['frames']} frames in, {result['outputs']} out, {result['repeats']} times")
    print(f"{seconds['median']:.4f} s per output frame (from {seconds['min']:.4f} to {seconds['max']:.4f})")
    for stage, taken in result["stages"].items():
        print(f"  {stage:16} {taken:.4f} s")
    latency = result["latency"]
    spent = latency["milliseconds"]
    print(
        f"live, an output waits for up to {latency['frames']} further frames, "
        f"then {spent['median']:.1f} ms (at most {spent['max']:.1f})"
    )
    print(f"peak memory {result['peak_rss_mib']:.0f} MiB")
    return 0


def _profile(args: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict
    from itertools import groupby

    from zsm.engine import Bundle
    from zsm.engine.bundle.shapes import Size
    from zsm.engine.diagnose.profile import profile

    times = profile(Bundle(args.bundle), args.device, args.backend, Size.parse(args.size))
    if args.json:
        print(json.dumps([asdict(time) for time in times], indent=1))
        return 0
    for stage, group in groupby(times, key=lambda time: time.stage):
        layers = list(group)
        print(f"{stage}: {sum(layer.milliseconds for layer in layers):.3f} ms in {len(layers)} layers")
        for layer in layers:
            print(f"  {layer.milliseconds:9.3f} ms  {layer.operation:16} {layer.layer}")
    return 0
