"""Scripts of the Makefile, with stand-ins for the system's commands."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("refusing", ["update", "install"])
def test_packages_that_cannot_be_installed_do_not_stop_the_tests(refusing: str, tmp_path: Path) -> None:
    stand_ins = {"id": "echo 0", "apt-get": f'[ "$1" != {refusing} ] || exit 100'}
    for name, program in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / name).chmod(0o755)
    command = [str(ROOT / "scripts/system_packages.sh"), "sh", "nosuchcommand"]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.startswith("Not installed: nosuchcommand. The tests that need them are skipped.")
