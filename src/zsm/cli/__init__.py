"""The command line: `zsm COMMAND ...`, and `zsm-export`, which is `zsm export`.

One module a command. Each has `SUMMARY` (a line for `zsm --help`), `configure(parser)`, which adds its
arguments, and `execute(args)`, which does the work through the library and returns the exit status.
A module imports the library only inside `execute`, so that `zsm --help` stays fast.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

from zsm import __version__
from zsm.errors import Error

COMMANDS = ("run", "info", "build", "verify", "bench", "eval", "export", "weights", "train", "cache", "doctor")

EXTRAS = {
    "onnxruntime": "cpu",
    "av": "video",
    "cv2": "video",
    "scenedetect": "video",
    "torch": "export",
    "onnxscript": "export",
    "safetensors": "export",
    "tensorboard": "train",
}
"""Optional packages by the extra that installs them."""


def _module(command: str) -> ModuleType:
    return importlib.import_module(f"zsm.cli.{command}")


def _run(prog: str, command: str, args: argparse.Namespace) -> int:
    try:
        status: int = _module(command).execute(args) or 0
    except Error as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        print(f"{prog}: {error.name} isn't installed: pip install 'zsm[{EXTRAS[error.name]}]'", file=sys.stderr)
        return 1
    except MemoryError as error:
        print(f"{prog}: not enough memory: {error or 'the system refused'}; try smaller frames", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away (as with `| head`); nobody is left to tell.
        sys.stderr.close()
        return 141
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Run `zsm`; the exit status is 0, 1 for an error that was explained, 2 for wrong usage."""
    parser = argparse.ArgumentParser(
        prog="zsm",
        description="Space-time video super-resolution: 4x the resolution, 2x the frame rate.",
    )
    parser.add_argument("--version", action="version", version=f"zsm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    for command in COMMANDS:
        module = _module(command)
        module.configure(commands.add_parser(command, help=module.SUMMARY, description=module.__doc__))
    args = parser.parse_args(argv)
    return _run(f"zsm {args.command}", args.command, args)


def export_main(argv: Sequence[str] | None = None) -> int:
    """Run `zsm-export`, that is `zsm export`."""
    module = _module("export")
    parser = argparse.ArgumentParser(prog="zsm-export", description=module.__doc__)
    module.configure(parser)
    return _run("zsm-export", "export", parser.parse_args(argv))
