"""Describe a bundle: network, precision, stages, where its weights come from, and what it needs at a frame size."""

import argparse
from typing import TYPE_CHECKING, Any

from zsm.cli import options

if TYPE_CHECKING:
    from zsm.engine import Bundle
    from zsm.engine.memory import Memory

SUMMARY = "describe a bundle"


def configure(parser: argparse.ArgumentParser) -> None:
    options.add_bundle(parser)
    options.add_size(parser)
    options.add_window(parser)
    parser.add_argument(
        "--memory", action="store_true", help="estimate the memory that TensorRT needs on a GPU for frames of that size"
    )
    parser.add_argument("--trtexec", action="store_true", help="print the trtexec command for each stage at that size")
    options.add_json(parser)


def execute(args: argparse.Namespace) -> int:
    import json

    from zsm.engine import Bundle

    if not args.memory:
        options.refuse(args, "only with --memory", "window")
    bundle = Bundle(args.bundle)
    memory = _memory(bundle, args) if args.memory else None
    commands = _commands(bundle, args) if args.trtexec else None
    if args.json:
        print(json.dumps(_as_json(bundle, memory, commands), indent=1))
        return 0
    if memory is None and commands is None:
        _print_description(bundle, args)
    if memory is not None:
        _print_memory(bundle, memory, args)
    for command in (commands or {}).values():
        print(command)
    return 0


def _memory(bundle: "Bundle", args: argparse.Namespace) -> "Memory":
    from zsm.engine.memory import Estimator
    from zsm.runtime import windows

    windows.check(args.window, 1)
    return Estimator(bundle, "cuda", args.window)(args.size, cuda_graphs=True)


def _commands(bundle: "Bundle", args: argparse.Namespace) -> dict[str, str]:
    from zsm.engine.backends.tensorrt.trtexec import commands
    from zsm.engine.bundle.shapes import SizeRange

    return commands(bundle, SizeRange.only(args.size))


def _as_json(bundle: "Bundle", memory: "Memory | None", commands: dict[str, str] | None) -> dict[str, Any]:
    import json
    from dataclasses import asdict

    result: dict[str, Any] = {"path": str(bundle.path), **json.loads(bundle.manifest.to_json())}
    if memory is not None:
        result["memory"] = asdict(memory)
    if commands is not None:
        result["trtexec"] = commands
    return result


def _print_description(bundle: "Bundle", args: argparse.Namespace) -> None:
    from rich.console import Console

    from zsm.cli.tables import precision_text, quantisation_table, stage_table

    manifest = bundle.manifest
    console = Console(markup=False, highlight=False)
    console.print(
        f"{args.bundle}: {precision_text(manifest)}, format {manifest.format_version}, opset {manifest.opset}"
    )
    console.print(f"network: {', '.join(f'{name} {value}' for name, value in manifest.network.to_dict().items())}")
    console.print(f"weights: {'trained' if manifest.trained else 'untrained'}, licence {manifest.licence}")
    if manifest.weights_sha256:
        console.print(f"weights sha256: {manifest.weights_sha256}", soft_wrap=True)
    console.print(f"opens in any ONNX Runtime: {'yes' if manifest.portable else 'no (export with --portable)'}")
    console.print(stage_table(manifest, args.size))
    if manifest.quantisation:
        console.print(quantisation_table(manifest.quantisation))


def _print_memory(bundle: "Bundle", memory: "Memory", args: argparse.Namespace) -> None:
    rows = (
        ("weights", memory.weights),
        (f"a window of {args.window} frames", memory.window),
        (f"within {memory.stage}", memory.activations),
        ("total", memory.total - memory.graphs),
        ("with CUDA graphs", memory.total),
    )
    print(f"estimate for {args.size} ({bundle.manifest.precision}), without the libraries' own memory")
    for name, size in rows:
        print(f"{name:24} {size / 2**20:10,.0f} MiB")
