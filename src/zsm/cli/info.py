"""Say what a bundle is: network, precision, stages, where its weights come from."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zsm.engine import Bundle
    from zsm.engine.bundle.shapes import Size

SUMMARY = "say what a bundle is"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("--json", action="store_true", help="the manifest as JSON")
    parser.add_argument("--size", default="480x270", help="LR size for GFLOP and all below (default: %(default)s)")
    parser.add_argument(
        "--memory", action="store_true", help="estimate what frames of that size need of a GPU's memory"
    )
    parser.add_argument("--window", type=int, default=4, help="input frames processed together (default: %(default)s)")
    parser.add_argument("--trtexec", action="store_true", help="print trtexec's command for each stage at that size")


def execute(args: argparse.Namespace) -> int:
    """Print."""
    from rich.console import Console

    from zsm.cli.tables import stage_table
    from zsm.engine import Bundle
    from zsm.engine.bundle.shapes import Size

    size = Size.parse(args.size)
    bundle = Bundle(args.bundle)
    manifest = bundle.manifest
    if args.trtexec:
        return _print_trtexec(bundle, size)
    if args.memory:
        return _print_memory(bundle, size, args.window)
    if args.json:
        print(manifest.to_json(), end="")
        return 0
    console = Console(markup=False, highlight=False)
    network = manifest.network
    console.print(f"{args.bundle}: {manifest.precision}, format {manifest.format_version}, opset {manifest.opset}")
    console.print(f"network: {', '.join(f'{name} {value}' for name, value in network.to_dict().items())}")
    console.print(f"weights: {'trained' if manifest.trained else 'untrained'}, licence {manifest.licence}")
    if manifest.weights_sha256:
        console.print(f"weights sha256: {manifest.weights_sha256}", soft_wrap=True)
    console.print(f"opens in any ONNX Runtime: {'yes' if manifest.portable else 'no (export with --portable)'}")
    console.print(stage_table(manifest, size))
    return 0


def _print_trtexec(bundle: "Bundle", size: "Size") -> int:
    from zsm.engine.backends.tensorrt.trtexec import commands
    from zsm.engine.bundle.shapes import SizeRange

    for command in commands(bundle, SizeRange.only(size)).values():
        print(command)
    return 0


def _print_memory(bundle: "Bundle", size: "Size", window: int) -> int:
    from zsm.engine.memory import estimate
    from zsm.runtime import windows

    windows.check(window, 1)
    memory = estimate(bundle, size, window)
    rows = (
        ("weights", memory.weights),
        (f"a window of {window} frames", memory.window),
        (f"within {memory.stage}", memory.activations),
        ("all", memory.total),
        ("CUDA graphs, if they fit", memory.graphs),
    )
    print(f"estimate for {size} ({bundle.manifest.precision}), without what libraries take for themselves")
    for name, size_in_bytes in rows:
        print(f"{name:24} {size_in_bytes / 2**20:10,.0f} MiB")
    return 0
