"""Write a model for a Triton inference server: frames of a video in, the restored frames out.

docs/serving.md describes how clients call it. The server's Python needs zsm.
"""

import argparse
from pathlib import Path

from zsm.cli import options

SUMMARY = "write a model for a Triton inference server"


def configure(parser: argparse.ArgumentParser) -> None:
    options.add_bundle(parser)
    parser.add_argument("repository", type=Path, metavar="REPOSITORY", help="the model repository's folder")
    parser.add_argument("--name", default="zsm", metavar="NAME", help="the model's name (default: %(default)s)")
    parser.add_argument(
        "--dtype",
        choices=("uint8", "uint16", "float32"),
        default="uint8",
        help="the frames' element type (default: %(default)s)",
    )
    parser.add_argument(
        "--instances",
        type=options.positive,
        default=1,
        metavar="N",
        help="processes that hold the bundle (default: %(default)s)",
    )
    parser.add_argument(
        "--streams",
        type=options.positive,
        default=16,
        metavar="N",
        help="videos that each of them works on at once; more wait (default: %(default)s)",
    )
    parser.add_argument(
        "--idle",
        type=options.positive,
        default=3600,
        metavar="SECONDS",
        help="drop a video so long after its last request arrived (default: %(default)s)",
    )
    options.add_json(parser)
    options.add_runtime_options(parser)


def execute(args: argparse.Namespace) -> int:
    import json

    from zsm.hosts.triton import write_model

    runtime = options.runtime_options(args)
    del runtime["build"]  # which would keep clients waiting for minutes
    folder = write_model(
        args.bundle,
        args.repository,
        name=args.name,
        dtype=args.dtype,
        instances=args.instances,
        streams=args.streams,
        idle=args.idle,
        **runtime,
    )
    print(json.dumps({"model": str(folder)}, indent=1) if args.json else folder)
    return 0
