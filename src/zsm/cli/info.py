"""Say what a bundle is: network, precision, stages, where its weights come from."""

import argparse
from pathlib import Path

SUMMARY = "say what a bundle is"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("--json", action="store_true", help="the manifest as JSON")
    parser.add_argument("--size", default="480x270", help="LR size that GFLOP are given for (default: %(default)s)")


def execute(args: argparse.Namespace) -> int:
    """Print."""
    from rich.console import Console

    from zsm.cli.tables import stage_table
    from zsm.engine import Bundle
    from zsm.engine.sizes import Size

    size = Size.parse(args.size)
    manifest = Bundle(args.bundle).manifest
    if args.json:
        print(manifest.to_json(), end="")
        return 0
    console = Console()
    network = manifest.network
    console.print(f"{args.bundle}: {manifest.precision}, format {manifest.format_version}, opset {manifest.opset}")
    console.print(f"network: {', '.join(f'{name} {value}' for name, value in network.to_dict().items())}")
    console.print(f"weights: {'trained' if manifest.trained else 'untrained'}, licence {manifest.licence}")
    if manifest.weights_sha256:
        console.print(f"weights sha256: {manifest.weights_sha256}", soft_wrap=True)
    console.print(f"opens in any ONNX Runtime: {'yes' if manifest.portable else 'no (export with --portable)'}")
    console.print(stage_table(manifest, size))
    return 0
