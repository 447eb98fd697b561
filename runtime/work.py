"""How the windows of a scene are computed: the interface, and the way for whole frames (`tiles.py` has the other)."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np

from zsm.runtime import network as stages
from zsm.runtime.backend import DevicePixels, Pixels, Session, Tensor
from zsm.runtime.network import Features, Hidden, Network

To = Literal["host", "device"]
"""Where outputs go: NumPy arrays, or frames in the device's memory."""

Delivery = Callable[[], Any]
"""An output on its way; calling it waits for the output."""


class Work(Protocol):
    """Computes the windows of a scene's frames."""

    def add(self, frame: Pixels | DevicePixels) -> None:
        """Take the scene's next frame."""
        ...

    def begin(self, needed: range, wanted: Callable[[int], bool]) -> None:
        """Begin the window of the newest frames. Of its outputs those `needed` and `wanted` will be asked for.

        Those before are not, those after perhaps.
        """
        ...

    def next(self, *, wanted: bool) -> Delivery | None:
        """Begin the window's next output; None if it isn't wanted."""
        ...

    def repeat(self) -> Delivery:
        """Begin the last output again, wanted or not."""
        ...


class Whole:
    """Whole frames. Each is extracted once, each gap interpolated once, however many windows hold them."""

    def __init__(self, session: Session, network: Network, window: int, dtype: np.dtype[Any], to: To) -> None:
        self._session = session
        self._network = network
        self._dtype = dtype
        self._to = to
        self._features: deque[Features] = deque(maxlen=window)
        self._gaps: deque[Tensor] = deque(maxlen=window - 1)
        self._pending: deque[Hidden] = deque()
        self._last: Hidden | None = None

    def add(self, frame: Pixels | DevicePixels) -> None:
        features = stages.extract(self._session, frame)
        if self._features:
            self._gaps.append(stages.interpolate(self._session, self._features[-1], features))
        self._features.append(features)

    def begin(self, needed: range, wanted: Callable[[int], bool]) -> None:
        self._last = None  # with the last window's states
        self._pending.clear()
        self._pending.extend(stages.window(self._session, self._network, self._features, self._gaps))
        for _ in range(needed.start):
            self._pending.popleft()

    def next(self, *, wanted: bool) -> Delivery | None:
        self._last = self._pending.popleft()
        return self.repeat() if wanted else None

    def repeat(self) -> Delivery:
        assert self._last is not None
        pixels = stages.reconstruct(self._session, self._network, self._last, self._dtype)
        if self._to == "device":
            return partial(self._session.export, pixels)
        copy = self._session.to_host(pixels)
        return lambda: copy()[0]
