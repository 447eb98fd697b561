"""The arguments that commands share. An option that means the same has the same name, default and help everywhere."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from zsm.engine.bundle.shapes import Size

T = TypeVar("T")

SIZE = "112x64"

RUNTIME_OPTIONS = ("device", "backend", "precision", "window", "overlap", "threads", "tile", "memory")
"""What `add_runtime_options` adds."""

Parser = argparse.ArgumentParser | argparse._ArgumentGroup


def parsed(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Turn a function that raises ValueError into an argparse type that reports the error's own message."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"invalid number {text!r}; give a whole number of at least 1")
    return int(text)


def size(text: str) -> "Size":
    """A frame size such as 480x270."""
    from zsm.engine.bundle.shapes import Size

    return parsed(Size.parse)(text)


def device(text: str) -> str:
    """A device name such as cpu, cuda:0 or npu."""
    from zsm.engine.devices import Device
    from zsm.errors import BackendError

    try:
        Device.parse(text)
    except BackendError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def tile(text: str) -> str:
    """`auto`, `off`, or a tile size that the runtime accepts."""
    from zsm.engine.tiling import parse_tile

    return text if text in ("auto", "off") else str(parsed(parse_tile)(text))


def memory(text: str) -> int:
    """A size such as 4GiB, in bytes."""
    from zsm.engine.tiling import parse_memory

    return parsed(parse_memory)(text)


def add_bundle(parser: Parser, **options: Any) -> None:
    parser.add_argument(
        "bundle", type=Path, metavar="BUNDLE", help="a folder, or the name of one in the box", **options
    )


def add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_size(parser: Parser) -> None:
    parser.add_argument("--size", type=size, default=SIZE, metavar="WxH", help="LR frame size (default: %(default)s)")


def add_device(parser: Parser, default: str = "cpu") -> None:
    parser.add_argument(
        "--device",
        type=device,
        default=default,
        metavar="NAME",
        help="cpu, cuda:N, or Intel's gpu:N or npu (default: %(default)s)",
    )


def add_gpu(parser: Parser) -> None:
    """`--device` for commands that are about a GPU."""
    parser.add_argument("--device", type=device, default="cuda:0", metavar="NAME", help="cuda:N (default: %(default)s)")


def add_backend(parser: Parser) -> None:
    parser.add_argument(
        "--backend",
        choices=("auto", "onnxruntime", "openvino", "tensorrt"),
        default="auto",
        help="(default: %(default)s)",
    )


def add_precision(parser: Parser) -> None:
    parser.add_argument(
        "--precision",
        choices=("bundle", "bfloat16"),
        default="bundle",
        help="what to compute in; bfloat16 needs OpenVINO and a processor with it (default: the bundle's own)",
    )


def add_window(parser: Parser) -> None:
    parser.add_argument(
        "--window", type=int, default=4, metavar="N", help="input frames processed together (default: %(default)s)"
    )


def add_threads(parser: Parser) -> None:
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all cores)")


def add_frame_limit(parser: Parser) -> None:
    parser.add_argument("--frames", type=positive, metavar="N", help="use at most N frames of each input")


def add_runtime_options(parser: argparse.ArgumentParser) -> None:
    """Add what `zsm.Runtime` takes."""
    group = parser.add_argument_group("how it runs")
    add_device(group)
    add_backend(group)
    add_precision(group)
    add_window(group)
    group.add_argument(
        "--overlap", type=int, default=1, metavar="N", help="input frames that windows share (default: %(default)s)"
    )
    group.add_argument(
        "--tile",
        type=tile,
        default="auto",
        metavar="auto|off|WxH",
        help="process frames in tiles; auto: as few as memory holds (default: %(default)s)",
    )
    group.add_argument(
        "--memory", type=memory, metavar="SIZE", help="how much memory --tile auto may use, such as 4GiB (default: all)"
    )
    add_threads(group)


def runtime_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments for `zsm.Runtime`; missing TensorRT engines are built."""
    given = {name: getattr(args, name) for name in RUNTIME_OPTIONS}
    return given | {"tile": None if args.tile == "off" else args.tile, "build": True}


def refuse(args: argparse.Namespace, reason: str, *names: str) -> None:
    """Exit with a usage error if any of these options was given, because the command wouldn't use it."""
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) != args.parser.get_default(name)]
    if given:
        args.parser.error(f"{', '.join(given)}: {reason}")
