"""scripts/gpu_report.sh: on a machine without a GPU, and with parts that fail, hang or are interrupted."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zsm.engine.backends.gpu import cuda
from zsm.errors import BackendError

ROOT = Path(__file__).resolve().parents[2]
SLEEP = "import time; time.sleep(60)"

Run = Callable[..., tuple[int, list[dict[str, Any]], str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs commands, or Python programs, as parts; returns the exit status, the lines of JSON and the summary."""
    monkeypatch.syspath_prepend(ROOT)
    report, parts = (importlib.import_module(f"scripts.{name}") for name in ("gpu_report", "gpu_parts"))

    def run_parts(*programs: str | list[str], limit: float = 60, each: int = 30, needs: tuple[str, ...] = ()) -> Any:
        there = {"GPU": parts.Need(there=lambda: True, get=""), "luck": parts.Need(there=lambda: False, get="a coin")}
        found = [
            parts.Part(name=f"part {i}", what="", commands=[command], limit=each, needs=needs)
            for i, command in enumerate(
                [sys.executable, "-c", program] if isinstance(program, str) else program for program in programs
            )
        ]
        status = report.Report(tmp_path, limit, there).run(found)
        lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
        return status, lines, (tmp_path / "summary.txt").read_text()

    return run_parts


def statuses(lines: list[dict[str, Any]]) -> dict[str, str]:
    return {line["part"]: line["status"] for line in lines if "status" in line}


def test_measurements_are_recorded_and_the_rest_is_logged(run: Run, tmp_path: Path) -> None:
    status, lines, summary = run(
        """print('{"size": "8x8", "name": "fused", "us": [1, 2.5, 3]}'); print('{no JSON'); print('[1]')"""
    )
    assert status == 0
    assert {"size": "8x8", "name": "fused", "us": [1, 2.5, 3]}.items() <= lines[0].items()
    assert [line["part"] for line in lines] == ["part 0"] * 2
    assert "8x8 fused: 2.5 us" in summary
    assert {"{no JSON", "[1]"} <= set((tmp_path / "log.txt").read_text().splitlines())


def test_a_part_that_fails_costs_only_itself(run: Run) -> None:
    crash = """import os; print('{"name": "before"}', flush=True); os.abort()"""
    measured = """print('{"name": "fused", "failed": "illegal address"}')"""
    status, lines, summary = run("import sys; sys.exit('no such kernel')", crash, measured, "pass")
    assert status == 1
    assert list(statuses(lines).values()) == ["failed", "failed", "failed", "passed"]
    assert any(line.get("name") == "before" for line in lines)
    assert "exit status 1: no such kernel" in summary


def test_a_part_that_hangs_is_ended_with_its_children(run: Run, tmp_path: Path) -> None:
    stubborn = f"trap '' TERM; sleep 60 & echo $! > {tmp_path / 'child'}; wait"
    status, lines, summary = run(["sh", "-c", stubborn], ["true"], each=2)
    assert status == 1
    assert statuses(lines) == {"part 0": "timed out", "part 1": "passed"}
    assert "after 2 s" in summary
    assert not is_running(int((tmp_path / "child").read_text()))


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_no_part_begins_when_time_is_up(run: Run) -> None:
    status, lines, summary = run("pass", limit=5)
    assert status == 0
    assert statuses(lines) == {"part 0": "skipped"}
    assert "no time left" in summary


def test_what_is_missing_is_said_with_what_it_leaves_out(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines, summary = run("pass", needs=("luck",))
    assert status == 0
    assert lines[0]["missing"] == "luck"
    assert lines[0]["leaves_out"] == ["part 0"]
    assert statuses(lines) == {"part 0": "skipped"}
    assert "needs luck" in summary
    assert "missing: luck (a coin); leaves out: part 0" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_report_still_has_its_summary(number: signal.Signals, tmp_path: Path) -> None:
    program = f"""
import sys
from scripts import gpu_parts, gpu_report
sleep = gpu_parts.Part(name="sleep", what="", limit=60, commands=[[sys.executable, "-c", {SLEEP!r}]])
after = gpu_parts.Part(name="after", what="", limit=60, commands=[["true"]])
gpu_report.parts = lambda *args, **options: [sleep, after]
sys.exit(gpu_report.main())
"""
    command = [sys.executable, "-c", program, "--out", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert any(line.startswith("== sleep") for line in process.stdout)
        time.sleep(1)
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == 130
    sleep, after = (tmp_path / "summary.txt").read_text().splitlines()
    assert sleep.split()[:2] == ["sleep", "interrupted"]
    assert after.split()[:3] == ["after", "not", "run"]


def without_gpu() -> bool:
    try:
        return cuda.device_count() == 0
    except BackendError:
        return True


@pytest.mark.skipif(not without_gpu(), reason="with a GPU the report takes 9 minutes")
def test_without_a_gpu_it_says_so_and_fails(tmp_path: Path) -> None:
    """Also from another folder, and with a Python that has none of zsm's packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    environment = {"PATH": os.environ["PATH"], "PYTHON": str(tmp_path / "bare" / "bin" / "python")}
    done = subprocess.run(
        [ROOT / "scripts" / "gpu_report.sh", "--out", "found"],
        cwd=tmp_path,
        env=environment,
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert "missing: GPU" in done.stdout
    assert "missing: zsm's packages" in done.stdout
    lines = [json.loads(line) for line in (tmp_path / "found" / "results.jsonl").read_text().splitlines()]
    found = statuses(lines)
    assert found.pop("machine") == "passed"
    assert set(found.values()) == {"skipped"}
    assert len(list((tmp_path / "found").iterdir())) <= 8
    assert "python" in next(line for line in lines if line["part"] == "machine")


def test_without_python_it_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3").chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "PYTHON": str(tmp_path / "python3")}
    done = subprocess.run([ROOT / "scripts" / "gpu_report.sh"], env=environment, text=True, capture_output=True)
    assert done.returncode == 1
    assert "needs Python 3.11 or newer" in done.stderr
