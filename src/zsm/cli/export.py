"""Export a network's weights as a bundle of ONNX graphs, verified against the network."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from zsm.cli import options

if TYPE_CHECKING:
    from zsm.export.int8 import Int8Options

SUMMARY = "export PyTorch weights as a bundle (the same as zsm-export)"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", type=Path, required=True, metavar="FILE", help=".safetensors, or a checkpoint as released (.pth)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the bundle's folder")
    parser.add_argument("--fp16", action="store_true", help="half-precision graphs")
    parser.add_argument("--int8", action="store_true", help="quantise layers, as many as --int8-budget allows")
    parser.add_argument(
        "--calibrate", type=Path, metavar="DIR", help="with --int8: videos or folders of images to measure losses on"
    )
    parser.add_argument(
        "--int8-budget",
        type=_budget,
        default=0.1,
        metavar="DB",
        help="Y-PSNR that quantising may cost in the mean; a single clip may lose three times as much "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--int8-stages",
        type=lambda text: tuple(text.split(",")),
        default=("extract", "interpolate", "propagate", "reconstruct"),
        metavar="STAGE,...",
        help="the stages that may be quantised (default: all)",
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="with --int8: write each block's loss and gain as an SVG plot"
    )
    parser.add_argument(
        "--portable", action="store_true", help="files that any ONNX Runtime from 1.25 opens (TensorRT doesn't)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing bundle")
    parser.add_argument("--licence", help="licence of the weights, recorded in the bundle")
    options.add_size(parser)
    options.add_json(parser)


def _budget(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid budget {text!r}; give dB such as 0.1") from None


def execute(args: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from rich.console import Console

    from zsm import files
    from zsm.cli.tables import quantisation_table, stage_table
    from zsm.export import export_weights
    from zsm.export.int8 import report

    quantise = _int8_options(args)
    if args.report:
        files.check_result(args.report)
    console = Console(stderr=True)
    with console.status("reading the weights") as status:
        exported = export_weights(
            args.weights,
            args.out,
            precision="fp16" if args.fp16 else "fp32",
            portable=args.portable,
            overwrite=args.overwrite,
            licence=args.licence,
            quantise=quantise,
            progress=status.update,
        )
    manifest = exported.bundle.manifest
    if args.report and manifest.quantisation:
        files.write_result(args.report, report.svg(manifest.quantisation))
    if args.json:
        print(json.dumps({"bundle": str(args.out), "error": asdict(exported.error)}, indent=1))
        return 0
    console.print(stage_table(manifest, args.size))
    if manifest.quantisation:
        console.print(quantisation_table(manifest.quantisation))
    console.print(f"verified against the network: {exported.error}")
    print(args.out)
    return 0


def _int8_options(args: argparse.Namespace) -> "Int8Options | None":
    from zsm.export.int8 import Int8Options

    if not args.int8:
        options.refuse(args, "only used with --int8", "calibrate", "int8_budget", "int8_stages", "report")
        return None
    if args.calibrate is None:
        args.parser.error("--int8 needs --calibrate DIR: videos or folders of images to measure losses on")
    return Int8Options(clips=args.calibrate, budget=args.int8_budget, stages=args.int8_stages)
