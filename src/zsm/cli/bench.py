"""Measure how fast a bundle is on this machine: seconds per output frame, by stage, latency, and memory."""

import argparse
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
    parser.add_argument("--cuda-graphs", action="store_true", help="replay each stage as a CUDA graph (TensorRT)")
    options.add_json(parser)
    options.add_runtime_options(parser)


def execute(args: argparse.Namespace) -> int:
    import json

    from zsm.engine import Runtime
    from zsm.engine.diagnose.bench import measure

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


def _profile(args: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict
    from itertools import groupby

    from zsm.engine import Bundle
    from zsm.engine.diagnose.profile import profile

    unused = ("length", "repeats", "cuda_graphs", "window", "overlap", "tile", "memory", "threads")
    options.refuse(args, "--profile runs each stage by itself and doesn't use it", *unused)
    times = profile(Bundle(args.bundle), args.device, args.backend, args.size)
    if args.json:
        print(json.dumps([asdict(time) for time in times], indent=1))
        return 0
    for stage, group in groupby(times, key=lambda time: time.stage):
        layers = list(group)
        print(f"{stage}: {sum(layer.milliseconds for layer in layers):.3f} ms in {len(layers)} layers")
        for layer in layers:
            print(f"  {layer.milliseconds:9.3f} ms  {layer.operation:16} {layer.layer}")
    return 0
