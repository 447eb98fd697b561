"""One grammar for every command: the same option means the same everywhere, and so does an exit status."""

import argparse
import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zsm import cli
from zsm.cli import COMMANDS, main
from zsm.engine import Bundle


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of every command, and of every action of a command."""
    found: dict[str, argparse.ArgumentParser] = {}
    for command in COMMANDS:
        parser = argparse.ArgumentParser(prog=f"zsm {command}")
        cli._module(command).configure(parser)
        subcommands = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        found |= {f"{command} {name}": each for a in subcommands for name, each in a.choices.items()} or {
            command: parser
        }
    return found


PARSERS = parsers()

ELSEWHERE = {
    ("--device", "build"),  # a GPU, not any device
    ("--device", "verify"),
    ("--device", "train"),  # a CPU or a GPU that torch knows
    ("--size", "build"),  # without a default
    ("--json", "run"),  # a line per event
}
"""Options that mean something else in a command."""


def options() -> Iterator[tuple[str, str, argparse.Action]]:
    for command, parser in PARSERS.items():
        for action in parser._actions:
            for name in action.option_strings:
                if name.startswith("--") and name != "--help":
                    yield name, command, action


@pytest.mark.parametrize(
    "name", ["--backend", "--device", "--frames", "--json", "--overlap", "--size", "--threads", "--tile", "--window"]
)
def test_an_option_is_the_same_in_every_command(name: str) -> None:
    found = {
        command: (action.default, action.help, action.metavar, action.choices)
        for each, command, action in options()
        if each == name and (name, command) not in ELSEWHERE
    }
    assert len(set(found.values())) == 1, found


@pytest.mark.parametrize("command", PARSERS)
def test_every_command_prints_json(command: str) -> None:
    flag = next(a for a in PARSERS[command]._actions if "--json" in a.option_strings)
    assert flag.nargs == 0, "--json is a flag; files are asked for by --out"


@pytest.mark.parametrize("command", PARSERS)
def test_every_argument_has_a_help_text(command: str) -> None:
    assert all(action.help for action in PARSERS[command]._actions)


@pytest.mark.parametrize(
    "command", [name for name, parser in PARSERS.items() if any(a.dest == "bundle" for a in parser._actions)]
)
def test_bundles_are_named_alike(command: str) -> None:
    bundle = next(a for a in PARSERS[command]._actions if a.dest == "bundle")
    assert (bundle.metavar, bundle.help) == ("BUNDLE", "a folder, or the name of one in the box")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_prints_every_option(command: str) -> None:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    shown = set(re.findall(r"--[a-z0-9-]+", text.getvalue()))
    if command in PARSERS:
        assert shown >= {name for name, each, _ in options() if each == command}


WRONG = [
    ["info"],
    ["info", "compact", "--size", "big"],
    ["info", "compact", "--size", "0x4"],
    ["bench", "compact", "--size", "4000000000x4000000000"],
    ["info", "compact", "--window", "1", "--memory"],
    ["bench", "compact", "--threads", "0"],
    ["bench", "compact", "--threads", "2.0"],
    ["bench", "compact", "--length", "0"],
    ["bench", "compact", "--device", "tpu"],
    ["bench", "compact", "--backend", "nosuch"],
    ["bench", "compact", "--tile", "nonsense"],
    ["bench", "compact", "--tile", "5x7"],
    ["bench", "compact", "--window", "1"],
    ["bench", "compact", "--overlap", "4"],
    ["bench", "compact", "--profile", "--threads", "2"],
    ["bench", "compact", "--profile", "--length", "8"],
    ["build", "compact"],
    ["build", "compact", "--min", "8x8"],
    ["build", "compact", "--size", "64x64", "--workspace", "0"],
    ["eval", "--data", "."],
    ["eval", "--data", ".", "--predictions", "a/x", "--predictions", "b/x"],
    ["build", "compact", "--size", "4x4", "--max", "8x8"],
    ["eval", "compact", "--data", ".", "--frames", "0"],
    ["eval", "compact", "--data", ".", "--degradation", "snow"],
    ["eval", "compact", "--data", ".", "--seed", "1"],
    ["eval", "compact", "--data", ".", "--seed", "1", "--degradation", "jpeg:10"],
    ["eval", "compact", "--data", ".", "--pictures", "1"],
    ["eval", "--predictions", "a", "--data", ".", "--threads", "1"],
    ["info", "compact", "--window", "5"],
    ["train", "config.toml", "--data", ".", "--out", "out", "--threads", "-1"],
    ["triton", "compact"],
    ["triton", "compact", "models", "--name", "a/b"],
    ["triton", "compact", "models", "--instances", "0"],
    ["triton", "compact", "models", "--window", "1"],
    ["cache"],
    ["cache", "clear", "engines", "nosuch"],
    ["weights", "push"],
    ["export"],
    ["nosuch"],
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_usage_exits_with_2_and_one_message(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(arguments)
    except SystemExit as stopped:
        status = stopped.code if isinstance(stopped.code, int) else 1
    said = capsys.readouterr()
    assert (status, said.out) == (2, "")
    assert said.err.startswith("usage: zsm")
    assert re.match(r"zsm[a-z ]*: error: .", said.err.splitlines()[-1])
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["info", "nowhere"],
        ["info", "long" * 75],
        ["bench", "nowhere"],
        ["verify", "compact", "--device", "cuda:63"],
        ["eval", "compact", "--data", "nowhere"],
        ["triton", "nowhere", "models"],
    ],
    ids=" ".join,
)
def test_failures_exit_with_1_and_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert said.out == "" or arguments[0] == "verify"
    assert said.err.startswith(f"zsm {arguments[0]}: ")
    assert said.err.count("\n") == 1


MAIN = "import sys; from zsm.cli import main; sys.exit(main())"


@pytest.mark.parametrize(
    ("arguments", "stream"), [("info compact --json", "stdout"), ("info compact", "stdout"), ("info nowhere", "stderr")]
)
def test_a_reader_that_goes_away_ends_the_command_with_141(arguments: str, stream: str) -> None:
    read, write = os.pipe()
    os.close(read)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: write}
    done = subprocess.run([sys.executable, "-c", MAIN, *arguments.split()], **streams, check=False)  # type: ignore[call-overload]
    os.close(write)
    assert (done.returncode, done.stdout or b"", done.stderr or b"") == (141, b"", b"")


def redirected(arguments: str, redirection: str, code: str = MAIN) -> subprocess.CompletedProcess[str]:
    command = f"{shlex.join([sys.executable, '-c', code])} {arguments} {redirection}"
    return subprocess.run(command, shell=True, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", ["info compact", "run compact absent.mkv out.mkv", "cache list"])
def test_json_needs_standard_output(arguments: str) -> None:
    done = redirected(f"{arguments} --json", ">&-")
    assert done.returncode == 2
    prog = f"zsm {arguments.split()[0]}"
    assert done.stderr.startswith(f"usage: {prog} ")
    assert done.stderr.endswith(f"\n{prog}: error: --json needs standard output, which is closed\n")


@pytest.mark.parametrize(
    ("arguments", "status"), [("info nowhere", 1), ("bench compact --tile 5x7", 2), ("info compact --window 5", 2)]
)
def test_no_message_goes_to_standard_output_in_place_of_a_closed_standard_error(arguments: str, status: int) -> None:
    done = redirected(arguments, "2>&-")
    assert (done.returncode, done.stdout) == (status, "")


def test_no_file_takes_the_place_of_a_closed_stream() -> None:
    """Whatever a library prints would go into it."""
    code = "import os, sys; from zsm.cli import main; main(); sys.exit(os.open(os.devnull, os.O_RDONLY))"
    assert redirected("info compact", "<&- >&- 2>&-", code).returncode > 2


def test_ctrl_c_ends_the_command_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("zsm.cli.info.execute", interrupt)
    assert main(["info", "compact"]) == 130
    assert capsys.readouterr().err == "zsm info: interrupted\n"


def test_info_prints_all_that_was_asked_for(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tiny_bundle), "--memory", "--trtexec", "--size", "32x16"]) == 0
    text = capsys.readouterr().out
    assert "32x16" in text
    assert text.count("trtexec --onnx=") == len(Bundle(tiny_bundle).manifest.stages) - 2  # none for uint16
    assert main(["info", str(tiny_bundle), "--memory", "--trtexec", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["network"]["width"] == 8
    assert result["memory"]["weights"] > 0
    assert set(result["trtexec"]) > {"extract", "interpolate", "propagate", "reconstruct"}
