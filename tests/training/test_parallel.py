"""Workers end with the process that they work for."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.training.test_trainer import RUN, STEPS, ZSM, arguments

ROOT = Path(__file__).parents[2]
PATIENCE = 60
"""Seconds for processes to end."""

SCRIPT = """
from tests.training.test_parallel import linger
from zsm.training.parallel import each

each(linger, range(2), workers=2)
"""


def linger(_number: int) -> None:
    print("at work", flush=True)
    time.sleep(10 * PATIENCE)


def killed(command: list[str], number: signal.Signals, after: str, times: int) -> None:
    """Start a process in the repository, and send it a signal once it and its workers have written so many such lines.

    Then wait for the end of what they write to, which comes when the last of them has ended.
    """
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            said: list[str] = []
            while sum(after in line for line in said) < times:
                said.append(process.stdout.readline())
                assert said[-1], "".join(said)
            process.send_signal(number)
            process.communicate(timeout=PATIENCE)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -number


def test_what_loads_examples_ends_with_a_killed_run(footage_folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(RUN.replace(f"steps = {STEPS}", "steps = 1000000").replace("[run]", "[run]\nworkers = 1"))
    killed([ZSM, *arguments(config, footage_folder, tmp_path / "out")], signal.SIGKILL, " step 2,", 1)


def test_what_shares_work_ends_with_a_stopped_process() -> None:
    killed([sys.executable, "-c", SCRIPT], signal.SIGTERM, "at work", 2)
