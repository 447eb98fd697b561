"""The command line: `zsm COMMAND ...`, and `zsm-export`, which is `zsm export`.

Each command is a module with `SUMMARY` (a line for `zsm --help`), `configure(parser)`, which adds its arguments, and
`execute(args)`, which does the work through the library and returns the exit status. A module imports the library only
inside `execute`, so that `zsm --help` stays fast.

Results go to standard output, progress and messages to standard error. Exit status: 0, 1 for a failure, 2 for wrong
usage, 3 if `zsm verify` finds a difference, 130 after Ctrl-C, 141 if the reader of a pipe goes away.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from zsm import __version__
from zsm.errors import ArgumentError, ArgumentTypeError, Error, FrameError

COMMANDS = (
    "run",
    "info",
    "build",
    "verify",
    "bench",
    "eval",
    "export",
    "weights",
    "train",
    "triton",
    "cache",
    "doctor",
)

FAILED, MISUSED, DIFFERS, INTERRUPTED, CLOSED = 1, 2, 3, 130, 141
"""Exit statuses."""

EXTRAS = {
    "onnxruntime": "cpu",
    "openvino": "openvino",
    "av": "video",
    "cv2": "video",
    "scenedetect": "video",
    "ray": "cluster",
    "torch": "export",
    "onnxscript": "export",
    "safetensors": "export",
    "tensorboard": "train",
}
"""Optional packages by the extra that installs them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `zsm` and return the exit status; argparse exits by itself on wrong usage."""
    _stand_in_for_closed_streams()
    parser = argparse.ArgumentParser(
        prog="zsm",
        description="Space-time video super-resolution: 4x the resolution, 2x the frame rate.",
    )
    parser.add_argument("--version", action="version", version=f"zsm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    for command in COMMANDS:
        module = _module(command)
        _configure(module, commands.add_parser(command, help=module.SUMMARY, description=module.__doc__))
    args = parser.parse_args(argv)
    return _run(args.command, args)


def export_main(argv: Sequence[str] | None = None) -> int:
    """Run `zsm-export`, which is `zsm export`."""
    _stand_in_for_closed_streams()
    module = _module("export")
    parser = argparse.ArgumentParser(prog="zsm-export", description=module.__doc__)
    _configure(module, parser)
    return _run("export", parser.parse_args(argv))


def _stand_in_for_closed_streams() -> None:
    """Keep the numbers of standard streams that are closed from files, into which libraries would print their messages.

    Also let what is meant for a closed standard error go nowhere: `print` and argparse would take standard output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115


def _module(command: str) -> ModuleType:
    return importlib.import_module(f"zsm.cli.{command}")


def _configure(module: ModuleType, parser: argparse.ArgumentParser) -> None:
    module.configure(parser)
    parser.set_defaults(parser=parser)


def _run(command: str, args: argparse.Namespace) -> int:
    if args.json and sys.stdout is None:
        args.parser.error("--json needs standard output, which is closed")
    try:
        return _execute(command, args)
    except BrokenPipeError:
        pass
    except SystemExit as error:
        if not isinstance(error.__context__, BrokenPipeError):  # which Rich ends the program for
            raise
    # The reader of our output is gone (as with `| head`). Python flushes once more at exit, which mustn't fail.
    for stream in filter(None, (sys.stdout, sys.stderr)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return CLOSED


def _execute(command: str, args: argparse.Namespace) -> int:
    """Execute a command; errors are explained, unless there is nobody to read that."""
    prog = args.parser.prog
    try:
        status: int = _module(command).execute(args) or 0
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a closed pipe is still handled
    except BrokenPipeError:
        raise
    except FrameError as error:  # an ArgumentError that comes from the input, not from the command line
        return _explain(prog, error, FAILED)
    except (ArgumentError, ArgumentTypeError) as error:
        args.parser.print_usage(sys.stderr)  # as argparse reports what it finds itself
        return _explain(f"{prog}: error", error, MISUSED)
    except (Error, OSError) as error:
        return _explain(prog, error, FAILED)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        return _explain(prog, f"{error.name} isn't installed: pip install 'zsm[{EXTRAS[error.name]}]'", FAILED)
    except MemoryError as error:
        return _explain(prog, f"not enough memory: {error or 'the system refused'}; try smaller frames", FAILED)
    except KeyboardInterrupt:
        return _explain(prog, "interrupted", INTERRUPTED)
    return status


def _explain(prog: str, message: object, status: int) -> int:
    print(f"{prog}: {message}", file=sys.stderr)
    return status
