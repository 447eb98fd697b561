"""The network's arithmetic on one window, stage by stage (paper, section 3)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from zsm.runtime.backend import DevicePixels, Pixels, Session, Tensor

SCALE = 4
"""Enlargement of height and width."""

GRID = 4
"""Stages run on planes whose height and width are multiples of this: the pyramid has three levels (section 3.2)."""


class Network(Protocol):
    """The parts of a network's configuration that decide how its stages are connected."""

    @property
    def directions(self) -> int:
        """Directions of the recurrence: 2, 1, or 0 without a recurrence."""
        ...

    @property
    def base(self) -> str:
        """`bicubic` if the reconstruction also reads the input's planes, else `none`."""
        ...


@dataclass(frozen=True)
class Features:
    """An input frame's planes, and the levels of its feature."""

    planes: Tensor
    levels: dict[str, Tensor]


@dataclass(frozen=True)
class Hidden:
    """What an output frame is reconstructed from: a hidden state per direction, and the inputs at or beside it."""

    states: tuple[Tensor, ...]
    previous: Features
    following: Features


def extract(session: Session, frame: Pixels | DevicePixels) -> Features:
    """A frame's feature (section 3.1)."""
    planes = session.ingest(frame)
    return Features(planes, session.run("extract", {"planes": planes}))


def interpolate(session: Session, previous: Features, following: Features) -> Tensor:
    """The feature of the missing frame between two (section 3.2)."""
    inputs = {f"previous_{name}": level for name, level in previous.levels.items()}
    inputs |= {f"next_{name}": level for name, level in following.levels.items()}
    return session.run("interpolate", inputs)["feature"]


def window(session: Session, network: Network, frames: Sequence[Features], gaps: Sequence[Tensor]) -> Iterator[Hidden]:
    """What each output of a window is reconstructed from, given its frames and the features between them."""
    features = [frames[0].levels["level1"]]
    neighbours = [(frames[0], frames[0])]
    for (previous, following), gap in zip(pairwise(frames), gaps, strict=True):
        features += [gap, following.levels["level1"]]
        neighbours += [(previous, following), (following, following)]
    for states, (previous, following) in zip(propagate(session, network, features), neighbours, strict=True):
        yield Hidden(states, previous, following)


def propagate(session: Session, network: Network, features: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """The hidden states of consecutive frames, one per direction (section 3.3).

    Both directions share weights and run as one batch: forward at t beside backward at T-1-t. Without a recurrence
    the features stand for the states.
    """
    if not network.directions:
        return [(feature,) for feature in features]
    orders = (features, features[::-1])[: network.directions]
    steps: list[list[Tensor]] = []
    hidden = cell = None
    for each in zip(*orders, strict=True):
        feature = session.concatenate(each) if len(each) > 1 else each[0]
        if hidden is None:
            hidden = cell = session.zeros_like(feature)
        out = session.run("propagate", {"feature": feature, "hidden": hidden, "cell": cell})
        hidden, cell = out["next_hidden"], out["next_cell"]
        steps.append(session.split(hidden) if len(each) > 1 else [hidden])
    if network.directions == 1:
        return [(forward,) for (forward,) in steps]
    return [(forward[0], backward[1]) for forward, backward in zip(steps, reversed(steps), strict=True)]


def reconstruct(session: Session, network: Network, hidden: Hidden, dtype: np.dtype[Any]) -> Tensor:
    """An output frame's pixels (1,4h,4w,3) (section 3.4)."""
    inputs = dict(zip(("forward", "backward"), hidden.states, strict=False))
    if network.base == "bicubic":
        inputs |= {"base_previous": hidden.previous.planes, "base_next": hidden.following.planes}
    return session.emit(session.run("reconstruct", inputs)["planes"], dtype)
