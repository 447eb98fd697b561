"""The native code, and the operator in float64 to compare it with."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.native_build import build_preset, run_tool

from zsm.plugins.native import Array, Attributes, Core


@pytest.fixture(scope="session")
def build() -> Callable[[str], Path]:
    """`build_preset`."""
    return build_preset


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    """`run_tool`."""
    return run_tool


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
