"""Arguments that several commands share: how a bundle is run."""

import argparse
from typing import Any


def add_runtime_options(parser: argparse.ArgumentParser) -> None:
    """Add what `engine.Runtime` takes."""
    group = parser.add_argument_group("how it runs")
    group.add_argument("--device", default="cpu", help="cpu or cuda:N (default: %(default)s)")
    group.add_argument("--backend", default="auto", help="auto, onnxruntime or tensorrt (default: %(default)s)")
    group.add_argument("--window", type=int, default=4, help="input frames processed together (default: %(default)s)")
    group.add_argument("--overlap", type=int, default=1, help="frames that windows share (default: %(default)s)")
    group.add_argument("--tile", metavar="auto|WxH", help="process frames in tiles; auto: the fewest that memory holds")
    group.add_argument("--threads", type=int, help="CPU threads (default: all cores)")


def runtime_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments for `engine.Runtime`; engines that are missing are built."""
    names = ("device", "backend", "window", "overlap", "threads", "tile")
    return {name: getattr(args, name) for name in names} | {"build": True}
