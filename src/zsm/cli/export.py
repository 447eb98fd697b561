"""Write a bundle: a network's weights as ONNX graphs, one a stage, verified against the network."""

import argparse
from pathlib import Path

SUMMARY = "weights in PyTorch to a bundle of ONNX graphs (the same as zsm-export)"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--weights", type=Path, required=True, help=".safetensors, or a checkpoint as released (.pth)")
    parser.add_argument("--out", type=Path, required=True, help="the bundle's folder")
    parser.add_argument("--fp16", action="store_true", help="half-precision graphs; pixels <-> planes stays float32")
    parser.add_argument("--portable", action="store_true", help="files that any ONNX Runtime opens (not TensorRT)")
    parser.add_argument("--overwrite", action="store_true", help="replace the bundle that is there")
    parser.add_argument("--licence", help="licence of the weights, to be noted in the bundle")
    parser.add_argument("--size", default="480x270", help="LR size of the table (its GFLOP) (default: %(default)s)")


def execute(args: argparse.Namespace) -> int:
    """Export, with progress, and print the table of stages."""
    from rich.console import Console

    from zsm.cli.tables import stage_table
    from zsm.engine.bundle.shapes import Size
    from zsm.export import export_weights

    size = Size.parse(args.size)
    console = Console(stderr=True)
    with console.status("reading the weights") as status:
        exported = export_weights(
            args.weights,
            args.out,
            precision="fp16" if args.fp16 else "fp32",
            portable=args.portable,
            overwrite=args.overwrite,
            licence=args.licence,
            progress=status.update,
        )
    console.print(stage_table(exported.bundle.manifest, size))
    console.print(f"verified against the network: {exported.error}")
    print(args.out)
    return 0
