"""Prove that a device computes what ONNX Runtime computes on the CPU: every stage, and a window as a whole.

The exit status is 0 if all errors are within their limits, 1 otherwise. Errors are relative: the RMS of the difference
as a part of the RMS of the values.
"""

import argparse
from pathlib import Path
from typing import Any

SUMMARY = "compare a device with the CPU, stage by stage"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("--device", default="cuda:0", help="cpu or cuda:N (default: %(default)s)")
    parser.add_argument("--backend", default="auto", help="auto, onnxruntime or tensorrt (default: %(default)s)")
    parser.add_argument("--size", default="112x64", help="LR size (default: %(default)s)")
    parser.add_argument(
        "--locate", action="store_true", help="for a stage that differs, find the first layer that does"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def execute(args: argparse.Namespace) -> int:
    """Compare, and print as it goes."""
    import json
    from dataclasses import asdict

    from rich.console import Console

    from zsm.engine import Bundle
    from zsm.engine.bundle.shapes import Size
    from zsm.engine.diagnose.locate import locate
    from zsm.engine.diagnose.verify import verify

    bundle, size = Bundle(args.bundle), Size.parse(args.size)
    results = []
    console = Console(highlight=False, soft_wrap=True)
    if not args.json:
        console.print(f"{args.bundle} ({bundle.manifest.precision}) on {args.device} at {size}, against the CPU")

    def look(stage: str, inputs: Any, backend: str) -> None:
        if not args.locate:
            return
        layer = locate(bundle, stage, inputs, args.device, backend)
        where = f"{layer.name} ({layer.operation}), {layer.comparison.relative:.1e}" if layer else "none"
        Console(stderr=True).print(f"the first layer of {stage} that differs: {where}", markup=False)

    for result in verify(bundle, args.device, args.backend, size, look):
        results.append(result)
        if not args.json:
            mark = "[green]same [/]" if result.works else "[red]DIFFERS[/]"
            console.print(
                f"{mark} {result.what:28} relative {result.relative:.1e} (limit {result.limit:.0e})"
                f"  max {result.max_abs:.1e}  PSNR {result.psnr:.1f} dB"
            )
    if args.json:
        print(json.dumps([{**asdict(result), "works": result.works} for result in results], indent=1))
    return 0 if all(result.works for result in results) else 1
