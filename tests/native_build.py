"""Builds the native code once for all tests, into build/test.

TensorRT's and ONNX Runtime's headers come from ZSM_TENSORRT_INCLUDE_DIRS (folders separated by colons, one per
TensorRT major) and ZSM_ONNXRUNTIME_INCLUDE_DIR. Tests of an adapter that was built without its headers are skipped.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.needs import missing

ROOT = Path(__file__).resolve().parents[1]
TOOLS = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
"""Search path for cmake and ninja: the ones that zsm[dev] installs come first."""


def run_tool(*command: str | Path) -> str:
    """Run a tool in the checkout; a failure fails the test and shows the tool's output."""
    if not shutil.which(command[0], path=TOOLS):
        missing("compiler", f"{command[0]} is not installed, so the native code isn't built")
    environment = os.environ | {"PATH": TOOLS}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(map(str, command))} failed:\n{done.stdout[-8000:]}")
    return done.stdout


def build_preset(preset: str) -> Path:
    """Configure and build a preset; returns its folder. Quick if nothing changed."""
    for tool in ("c++", "ninja"):
        if not shutil.which(tool, path=TOOLS):
            missing("compiler", f"{tool} is not installed, so the native code isn't built")
    folder = ROOT / "build" / preset
    folder.mkdir(parents=True, exist_ok=True)
    headers = {
        "TensorRT_INCLUDE_DIR": os.environ.get("ZSM_TENSORRT_INCLUDE_DIRS", "").replace(":", ";"),
        "onnxruntime_INCLUDE_DIR": os.environ.get("ZSM_ONNXRUNTIME_INCLUDE_DIR", ""),
    }
    with (folder / ".lock").open("w") as lock:  # test processes run side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        run_tool("cmake", "--preset", preset, *(f"-D{name}={value}" for name, value in headers.items() if value))
        run_tool("cmake", "--build", folder)
    return folder
