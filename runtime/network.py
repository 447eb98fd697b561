"""The network's arithmetic on one window, stage by stage (paper, section 3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from zsm.runtime.backend import Backend, DevicePixels, Pixels, Tensor

SCALE = 4
"""Enlargement of height and width."""

GRID = 4
"""Stages run on planes whose height and width are multiples of this: the pyramid has three levels (section 3.2)."""


@dataclass(frozen=True)
class Frame:
    """An input frame on the device: its planes and its feature's levels."""

    size: tuple[int, int]
    dtype: str
    planes: Tensor
    levels: dict[str, Tensor]


@dataclass(frozen=True)
class Hidden:
    """All that an output frame is made from: hidden states, one a direction, and the inputs at or beside it."""

    states: tuple[Tensor, ...]
    previous: Frame
    following: Frame


def extract(backend: Backend, pixels: Pixels | DevicePixels) -> Frame:
    """A frame (h,w,3) to its feature (section 3.1)."""
    height, width = pixels.shape[:2]
    dtype = pixels.dtype.name
    batch = backend.from_host(np.ascontiguousarray(pixels)[None]) if isinstance(pixels, np.ndarray) else pixels.tensor
    planes = backend.run(f"ingest_{dtype}", {"pixels": batch})["planes"]
    levels = backend.run("extract", {"planes": planes})
    return Frame((height, width), dtype, planes, levels)


def interpolate(backend: Backend, previous: Frame, following: Frame) -> Tensor:
    """The feature of the frame missing between two (section 3.2)."""
    inputs = {f"previous_{name}": level for name, level in previous.levels.items()}
    inputs |= {f"next_{name}": level for name, level in following.levels.items()}
    return backend.run("interpolate", inputs)["feature"]


def propagate(backend: Backend, features: Sequence[Tensor], directions: int) -> list[tuple[Tensor, ...]]:
    """The features of consecutive frames to hidden states at each, one a direction (section 3.3).

    Both directions share weights and run as one batch: forward at t beside backward at T-1-t. Without a
    recurrence (no directions) the features stand for the states.
    """
    if not directions:
        return [(feature,) for feature in features]
    named = {f"feature {t}": feature for t, feature in enumerate(features)}
    states = backend.repeat("recurrence", partial(_unroll, backend, directions), named)
    return [tuple(states[_state(direction, t)] for direction in range(directions)) for t in range(len(features))]


def _unroll(backend: Backend, directions: int, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    forward = list(features.values())
    states: dict[str, Tensor] = {}
    hidden = cell = None
    for t, step in enumerate(zip(*(forward, forward[::-1])[:directions], strict=True)):
        feature = backend.concatenate(step) if directions > 1 else step[0]
        if hidden is None:
            hidden = cell = backend.zeros_like(feature)
        out = backend.run("propagate", {"feature": feature, "hidden": hidden, "cell": cell})
        hidden, cell = out["next_hidden"], out["next_cell"]
        parts = backend.split(hidden) if directions > 1 else [hidden]
        states |= {_state(d, (t, len(forward) - 1 - t)[d]): part for d, part in enumerate(parts)}
    return states


def _state(direction: int, t: int) -> str:
    return f"{('forward', 'backward')[direction]} {t}"


def reconstruct(backend: Backend, hidden: Hidden) -> Tensor:
    """An output frame's pixels (1,4h,4w,3), of the input's type (section 3.4)."""
    inputs = dict(zip(("forward", "backward"), hidden.states, strict=False))
    if "base_previous" in backend.inputs("reconstruct"):
        inputs |= {"base_previous": hidden.previous.planes, "base_next": hidden.following.planes}
    planes = backend.run("reconstruct", inputs)["planes"]
    frame = hidden.previous
    size = np.array([SCALE * extent for extent in frame.size], np.int64)
    return backend.run(f"emit_{frame.dtype}", {"planes": planes, "size": backend.from_host(size)})["pixels"]
