"""Measure how fast a bundle is on this machine: seconds per output frame, by stage, latency, and memory.

With --compare, measure every backend and precision that works here instead. On a CPU, --backend auto takes the fastest
backend from then on.
"""

import argparse
from pathlib import Path
from typing import Any

from zsm.cli import options

SUMMARY = "measure a bundle's speed"


def configure(parser: argparse.ArgumentParser) -> None:
    options.add_bundle(parser)
    options.add_size(parser)
    parser.add_argument(
        "--length", type=options.positive, default=4, metavar="N", help="input frames per run (default: %(default)s)"
    )
    parser.add_argument(
        "--repeats", type=options.positive, default=5, metavar="N", help="measured runs (default: %(default)s)"
    )
    parser.add_argument("--profile", action="store_true", help="measure every layer instead, stage by stage")
    parser.add_argument(
        "--compare",
        nargs="*",
        type=Path,
        metavar="BUNDLE",
        help="compare all backends and precisions; also these bundles of the same network, such as its INT8 form",
    )
    parser.add_argument("--cuda-graphs", action="store_true", help="replay each stage as a CUDA graph (TensorRT)")
    options.add_json(parser)
    options.add_runtime_options(parser)


def execute(args: argparse.Namespace) -> int:
    import json

    from zsm.engine import Runtime
    from zsm.engine.diagnose.bench import measure

    if args.compare is not None:
        return _compare(args)
    if args.profile:
        return _profile(args)
    with Runtime(args.bundle, cuda_graphs=args.cuda_graphs, **options.runtime_options(args)) as runtime:
        result = measure(runtime, args.size, args.length, args.repeats)
    print(json.dumps(result, indent=1) if args.json else _text(result))
    return 0


def _text(result: dict[str, Any]) -> str:
    seconds, latency = result["seconds_per_output"], result["latency"]
    waits = latency["milliseconds"]
    return "\n".join(
        [
            f"{result['size']}, {result['frames']} frames in, {result['outputs']} out, {result['repeats']} times",
            f"{seconds['median']:.4f} s per output frame (from {seconds['min']:.4f} to {seconds['max']:.4f})",
            *(f"  {stage:16} {taken:.4f} s" for stage, taken in result["stages"].items()),
            f"live, an output waits for up to {latency['frames']} further frames, "
            f"then {waits['median']:.1f} ms (at most {waits['max']:.1f})",
            f"peak memory {result['peak_rss_mib']:.0f} MiB",
        ]
    )


def _compare(args: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from zsm.engine import Bundle
    from zsm.engine.diagnose.compare import compare

    unused = ("profile", "device", "backend", "precision", "window", "overlap", "tile", "memory", "cuda_graphs")
    options.refuse(args, "--compare doesn't use it", *unused)
    bundles = {str(path): Bundle(path) for path in (args.bundle, *args.compare)}
    given = {str(bundle.path): name for name, bundle in bundles.items()}
    results = list(compare(list(bundles.values()), args.size, args.length, args.repeats, args.threads))
    if args.json:
        print(json.dumps([asdict(result) for result in results], indent=1))
        return 0
    working = sorted((result for result in results if not result.fault), key=lambda result: result.seconds)
    about = f"{args.size}, {args.length} frames in, median of {args.repeats}; dB against {args.bundle} on ONNX Runtime"
    table = Table(title=about, title_justify="left", box=None)
    for column in ("bundle", "backend", "device", "precision"):
        table.add_column(column, overflow="fold")
    for column in ("s per frame", "peak MiB", "dB"):
        table.add_column(column, justify="right")
    for result in working:
        way = result.way
        figures = (f"{result.seconds:.4f}", f"{result.peak_mib:.0f}", f"{result.psnr:.1f}")
        table.add_row(given[way.bundle], way.backend, way.device, way.precision, *figures)
    console = Console(highlight=False)
    console.print(table)
    faults = {f"{r.way.backend} on {r.way.device}, {r.way.precision} precision: {r.fault}" for r in results if r.fault}
    for fault in sorted(faults):
        console.print(f"not measured: {fault}", markup=False, soft_wrap=True)
    return 0


def _profile(args: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict
    from itertools import groupby

    from zsm.engine import Bundle
    from zsm.engine.diagnose.profile import profile

    unused = ("length", "repeats", "cuda_graphs", "window", "overlap", "tile", "memory", "threads")
    options.refuse(args, "--profile runs each stage by itself and doesn't use it", *unused)
    times = profile(Bundle(args.bundle), args.device, args.backend, args.size, args.precision)
    if args.json:
        print(json.dumps([asdict(time) for time in times], indent=1))
        return 0
    for stage, group in groupby(times, key=lambda time: time.stage):
        layers = list(group)
        print(f"{stage}: {sum(layer.milliseconds for layer in layers):.3f} ms in {len(layers)} layers")
        for layer in layers:
            print(f"  {layer.milliseconds:9.3f} ms  {layer.operation:16} {layer.layer}")
    return 0
