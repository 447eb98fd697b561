"""Export a network's weights as a bundle of ONNX graphs, verified against the network."""

import argparse
from pathlib import Path

from zsm.cli import options

SUMMARY = "export PyTorch weights as a bundle (the same as zsm-export)"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", type=Path, required=True, metavar="FILE", help=".safetensors, or a checkpoint as released (.pth)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the bundle's folder")
    parser.add_argument("--fp16", action="store_true", help="half-precision graphs")
    parser.add_argument("--portable", action="store_true", help="files that any ONNX Runtime opens (TensorRT doesn't)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing bundle")
    parser.add_argument("--licence", help="licence of the weights, recorded in the bundle")
    options.add_size(parser)
    options.add_json(parser)


def execute(args: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from rich.console import Console

    from zsm.cli.tables import stage_table
    from zsm.export import export_weights

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
    if args.json:
        print(json.dumps({"bundle": str(args.out), "error": asdict(exported.error)}, indent=1))
        return 0
    console.print(stage_table(exported.bundle.manifest, args.size))
    console.print(f"verified against the network: {exported.error}")
    print(args.out)
    return 0
