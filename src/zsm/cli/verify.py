"""Check that a device computes what ONNX Runtime computes on the CPU: every stage, then a whole window.

The exit status is 0 if all errors are within their limits, 3 if one isn't. Errors are relative: the RMS of the
difference divided by the RMS of the values.
"""

import argparse
from typing import Any

from zsm.cli import DIFFERS, options

SUMMARY = "compare a device with the CPU, stage by stage"


def configure(parser: argparse.ArgumentParser) -> None:
    options.add_bundle(parser)
    options.add_device(parser, default="cuda:0")
    options.add_backend(parser)
    options.add_precision(parser)
    options.add_size(parser)
    parser.add_argument("--locate", action="store_true", help="find the first layer that differs, where a stage does")
    options.add_json(parser)


def execute(args: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from rich.console import Console

    from zsm.engine import Bundle
    from zsm.engine.diagnose.locate import locate
    from zsm.engine.diagnose.verify import verify

    bundle = Bundle(args.bundle)
    results = []
    console = Console(highlight=False, soft_wrap=True)
    if not args.json:
        precision = bundle.manifest.precision if args.precision == "bundle" else args.precision
        console.print(f"{args.bundle} ({precision}) on {args.device} at {args.size}, against the CPU", markup=False)

    def look(stage: str, inputs: Any, backend: str) -> None:
        if not args.locate:
            return
        layer = locate(bundle, stage, inputs, args.device, backend, precision=args.precision)
        where = f"{layer.name} ({layer.operation}), {layer.comparison.relative:.1e}" if layer else "none"
        Console(stderr=True).print(f"the first layer of {stage} that differs: {where}", markup=False)

    for result in verify(bundle, args.device, args.backend, args.size, look, precision=args.precision):
        results.append(result)
        if not args.json:
            mark = "[green]same   [/]" if result.works else "[red]DIFFERS[/]"
            console.print(
                f"{mark} {result.what:28} relative {result.relative:.1e} (limit {result.limit:.0e})"
                f"  max {result.max_abs:.1e}  PSNR {result.psnr:.1f} dB"
            )
    if args.json:
        print(json.dumps([{**asdict(result), "works": result.works} for result in results], indent=1))
    return 0 if all(result.works for result in results) else DIFFERS
