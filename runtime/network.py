"""The network's arithmetic on one window, stage by stage (paper, section 3)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
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

    @property
    def feature(self) -> Tensor:
        """The feature at full size."""
        return self.levels["level1"]


@dataclass(frozen=True)
class Hidden:
    """What an output frame is reconstructed from: a hidden state per direction, and the planes at or beside it."""

    states: tuple[Tensor, ...]
    previous: Tensor
    following: Tensor


def extract(session: Session, frame: Pixels | DevicePixels) -> Features:
    """A frame's feature (section 3.1)."""
    planes = session.ingest(frame)
    return Features(planes, session.run("extract", {"planes": planes}))


def interpolate(session: Session, previous: Features, following: Features) -> Tensor:
    """The feature of the missing frame between two (section 3.2)."""
    inputs = {f"previous_{name}": level for name, level in previous.levels.items()}
    inputs |= {f"next_{name}": level for name, level in following.levels.items()}
    return session.run("interpolate", inputs)["feature"]


def window(session: Session, network: Network, frames: Sequence[Features], gaps: Sequence[Tensor]) -> list[Hidden]:
    """What each output of a window is reconstructed from, given its frames and the features between them."""
    return [hidden for _, hidden in sorted(completed(session, network, frames, gaps), key=itemgetter(0))]


def completed(
    session: Session, network: Network, frames: Sequence[Features], gaps: Sequence[Tensor]
) -> Iterator[tuple[int, Hidden]]:
    """The same as soon as it is known, with each output's number: those in the middle come first."""
    features = [frames[0].feature]
    planes = [(frames[0].planes, frames[0].planes)]
    for (previous, following), gap in zip(pairwise(frames), gaps, strict=True):
        features += [gap, following.feature]
        planes += [(previous.planes, following.planes), (following.planes, following.planes)]
    for number, states in propagate(session, network, features):
        yield number, Hidden(states, *planes[number])


def propagate(
    session: Session, network: Network, features: Sequence[Tensor]
) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """The hidden states of consecutive frames, one per direction, with the frames' numbers (section 3.3).

    Forward at t goes beside backward at T-1-t. From the middle on, each step completes a frame on either side, which is
    yielded at once, so that no more than half of the states wait. Without a recurrence the features stand for the
    states.
    """
    if not network.directions:
        yield from enumerate((feature,) for feature in features)
        return
    orders = (features, features[::-1])[: network.directions]
    last = len(features) - 1
    waiting: dict[int, tuple[Tensor, ...]] = {}
    for step, states in enumerate(_steps(session, orders)):
        if network.directions == 1:
            yield step, states
            continue
        waiting[step] = states
        if step >= last - step:
            for number in sorted({step, last - step}):
                yield number, (waiting[number][0], waiting[last - number][1])
            del waiting[step]
            waiting.pop(last - step, None)


def _steps(session: Session, orders: Sequence[Sequence[Tensor]]) -> Iterator[tuple[Tensor, ...]]:
    """The hidden states of each step, one per order; orders share weights, and run as one batch if that is faster."""
    if len(orders) > 1 and session.batched:
        batches = map(session.concatenate, zip(*orders, strict=True))
        yield from (tuple(session.split(hidden)) for hidden in _recurrence(session, batches))
    else:
        yield from zip(*(_recurrence(session, order) for order in orders), strict=True)


def _recurrence(session: Session, features: Iterable[Tensor]) -> Iterator[Tensor]:
    """The hidden states of consecutive features."""
    hidden = cell = None
    for feature in features:
        if hidden is None:
            hidden = cell = session.zeros_like(feature)
        out = session.run("propagate", {"feature": feature, "hidden": hidden, "cell": cell})
        hidden, cell = out["next_hidden"], out["next_cell"]
        del feature, out  # or they would be held while the caller goes on
        yield hidden


def reconstruct(session: Session, network: Network, hidden: Hidden, dtype: np.dtype[Any]) -> Tensor:
    """An output frame's pixels (1,4h,4w,3) (section 3.4)."""
    inputs = dict(zip(("forward", "backward"), hidden.states, strict=False))
    if network.base == "bicubic":
        inputs |= {"base_previous": hidden.previous, "base_next": hidden.following}
    return session.emit(session.run("reconstruct", inputs)["planes"], dtype)
