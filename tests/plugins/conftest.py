"""Builds the native code once for all tests, into build/test.

TensorRT's and ONNX Runtime's headers come from ZSM_TENSORRT_INCLUDE_DIRS (folders separated by colons, one per
TensorRT major) and ZSM_ONNXRUNTIME_INCLUDE_DIR. Tests of an adapter that was built without its headers are skipped.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.needs import missing

from zsm.plugins.native import Array, Attributes, Core

ROOT = Path(__file__).resolve().parents[2]
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


@pytest.fixture(scope="session")
def build() -> Callable[[str], Path]:
    """`build_preset`."""
    return build_preset


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    """`run_tool`."""
    return run_tool


@pytest.fixture(scope="session")
def built() -> Path:
    """The folder of the test build."""
    return build_preset("test")


@pytest.fixture
def libraries(built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the built libraries, where zsm.plugins finds them."""
    monkeypatch.setenv("ZSM_PLUGIN_DIR", str(built / "lib"))
    return built / "lib"


@pytest.fixture(scope="session")
def core(built: Path) -> Core:
    """The C interface of the test build."""
    return Core(built / "lib" / "libzsm_core.so")


def _sample(x: Array, batch: Array, y: Array, x_: Array) -> Array:
    """Bilinear samples of x (N,C,H,W) at positions of any shape: (C,...), zero outside."""
    height, width = x.shape[2:]
    top, left = np.floor(y), np.floor(x_)
    total = np.zeros((x.shape[1], *y.shape))
    for dy in (0, 1):
        for dx in (0, 1):
            v, u = top + dy, left + dx
            inside = (v >= 0) & (v < height) & (u >= 0) & (u < width)
            part = (1 - abs(y - v)) * (1 - abs(x_ - u)) * inside
            row, column = np.where(inside, v, 0).astype(int), np.where(inside, u, 0).astype(int)
            total += part * x[batch, :, row, column].astype(np.float64).T.reshape(total.shape)
    return total


def deform_conv_at(
    pixels: Array,
    a: Attributes,
    x: Array,
    offset_mask: Array,
    weight: Array,
    bias: Array,
    coordinates: type = np.float64,
) -> Array:
    """The operator's output at `pixels` (P,3), rows of (n,y,x), in float64: (P,O).

    `coordinates` is the type that sampling positions are rounded to.
    """
    taps, channels = a.kernel_shape[0] * a.kernel_shape[1], x.shape[1] // a.offset_group
    n, y, x_ = pixels.T
    raw = offset_mask[n, :, y, x_].astype(np.float64)
    columns = np.zeros((len(pixels), x.shape[1], taps))
    for g in range(a.offset_group):
        for k in range(taps):
            i, j = divmod(k, a.kernel_shape[1])
            dy, dx = raw[:, 2 * (g * taps + k)], raw[:, 2 * (g * taps + k) + 1]
            mask = 1 / (1 + np.exp(-raw[:, 2 * a.offset_group * taps + g * taps + k]))
            v = (y * a.strides[0] - a.pads[0] + i * a.dilations[0] + dy).astype(coordinates).astype(np.float64)
            u = (x_ * a.strides[1] - a.pads[1] + j * a.dilations[1] + dx).astype(coordinates).astype(np.float64)
            group = slice(g * channels, (g + 1) * channels)
            columns[:, group, k] = (_sample(x[:, group], n, v, u) * mask).T
    parts = np.split(columns, a.group, axis=1)
    weights = np.split(weight.astype(np.float64).reshape(*weight.shape[:2], taps), a.group)
    return np.concatenate([np.einsum("pck,ock->po", c, w) for c, w in zip(parts, weights, strict=True)], 1) + bias


@pytest.fixture(scope="session")
def reference_at() -> Callable[..., Array]:
    """`deform_conv_at`: the operator in float64, at single pixels, so that large images can be checked."""
    return deform_conv_at
