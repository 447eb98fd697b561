"""Frames in, frames out: windows and scenes over a stream whose length nobody knows."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from zsm.errors import FrameError, WindowError
from zsm.runtime import network as stages
from zsm.runtime import windows
from zsm.runtime.backend import Backend, DevicePixels, Pixels, Tensor
from zsm.runtime.network import Frame, Hidden

Cuts = Iterable[int] | Callable[[Pixels, Pixels], bool] | None
"""Where new scenes begin: frame numbers, or whether there is a cut between two neighbouring frames."""

To = Literal["host", "device"]
"""Where outputs go: NumPy arrays, or frames in the device's memory."""

Delivered = Callable[[], Any]
"""An output on its way; calling it waits."""

DTYPES = (np.uint8, np.uint16, np.float32)


def stream(
    backend: Backend,
    frames: Iterable[Pixels],
    *,
    directions: int,
    window: int,
    overlap: int,
    cuts: Cuts = None,
    ahead: int = 0,
    to: To | None = None,
) -> Iterator[Any]:
    """The outputs of a stream of frames, each as soon as no later window can change it.

    Memory holds the frames of one window, however long the stream is. Up to `ahead` outputs may still be on their
    way to the host while the next frame is read. Outputs go where the frames are, or `to` another place. Raises
    WindowError at once for a window or cuts that can't be.
    """
    windows.check(window, overlap)
    new_scene = cuts if callable(cuts) else None
    numbers = _numbers(cuts) if cuts is not None and not callable(cuts) else frozenset()

    def outputs() -> Iterator[Delivered]:
        scene = Scene(backend, directions, window, overlap)
        before: Any = None
        previous: Pixels | DevicePixels | None = None
        place = to
        for number, given in enumerate(frames):
            frame = given if isinstance(given, np.ndarray) else backend.adopt(given)
            check_frame(frame, number, previous)
            place = place or ("host" if isinstance(frame, np.ndarray) else "device")
            if previous is not None and (number in numbers or (new_scene and new_scene(before, given))):
                yield from _deliver(backend, scene.finish(), place)
                yield from _deliver(backend, [scene.repeat_last()], place)
                scene = Scene(backend, directions, window, overlap)
            yield from _deliver(backend, scene.push(frame), place)
            previous = frame
            # Who gives the frames may use one buffer for all of them.
            before = given.copy() if new_scene and isinstance(given, np.ndarray) else given
        if place is not None:
            yield from _deliver(backend, scene.finish(), place)

    return _when_there(outputs(), ahead)


def _deliver(backend: Backend, tensors: Iterable[Tensor], place: To) -> Iterator[Delivered]:
    """Begin to bring each output to its place."""

    def begin(tensor: Tensor) -> Delivered:
        if place == "device":
            return partial(backend.export, tensor)
        batch = backend.to_host(tensor)
        return lambda: batch()[0]

    return map(begin, tensors)  # which holds no tensor while the next is computed


def _when_there(outputs: Iterable[Delivered], ahead: int) -> Iterator[Any]:
    """The outputs in order, each waited for when `ahead` more of them have been begun."""
    begun: deque[Delivered] = deque()
    for output in outputs:
        begun.append(output)
        del output  # or its memory would be held while the next is computed
        if len(begun) > ahead:
            yield begun.popleft()()
    while begun:
        yield begun.popleft()()


def _numbers(cuts: Iterable[int]) -> frozenset[int]:
    if not isinstance(cuts, Iterable):
        raise WindowError(f"cuts are {cuts!r}; give numbers of frames, or a function of two frames")
    numbers = list(cuts)
    for cut in numbers:
        if not isinstance(cut, (int, np.integer)) or isinstance(cut, bool) or cut < 0:
            raise WindowError(f"there can be no cut at {cut!r}; give numbers of frames that begin a scene")
    return frozenset(map(int, numbers))


def check_frame(frame: Pixels | DevicePixels, number: int, previous: Pixels | DevicePixels | None) -> None:
    """Raise FrameError unless this is a frame, and one like the frame before it."""
    if not isinstance(frame, (np.ndarray, DevicePixels)):
        raise FrameError(f"frame {number} is a {type(frame).__name__}; give NumPy arrays (height, width, 3)")
    if len(frame.shape) != 3 or frame.shape[2] != 3 or not all(frame.shape):
        raise FrameError(f"frame {number} has the shape {frame.shape}; give RGB frames (height, width, 3)")
    if frame.dtype not in DTYPES:
        raise FrameError(f"frame {number} is of type {frame.dtype}; give uint8, uint16, or float32 in [0, 1]")
    if previous is not None and (frame.shape, frame.dtype) != (previous.shape, previous.dtype):
        raise FrameError(
            f"frame {number} is {_kind(frame)}, the frames before it are {_kind(previous)}; "
            "all frames of a stream must be alike: start a new stream where they change"
        )


def _kind(frame: Pixels | DevicePixels) -> str:
    return f"{frame.shape[1]}x{frame.shape[0]} {frame.dtype}"


class Scene:
    """The frames between two cuts, pushed one by one. Each is extracted once, each gap interpolated once.

    Outputs are pixels (1,4h,4w,3) where the backend computed them.
    """

    def __init__(self, backend: Backend, directions: int, window: int, overlap: int) -> None:
        self._backend = backend
        self._directions = directions
        self._window = window
        self._step = window - overlap
        self._frames: deque[Frame] = deque(maxlen=window)
        self._gaps: deque[Tensor] = deque(maxlen=window - 1)
        self._count = 0
        self._start = -self._step
        self._pending: deque[Hidden] = deque()
        self._yielded = 0

    def push(self, pixels: Pixels | DevicePixels) -> Iterator[Tensor]:
        """Take one more frame, and yield the outputs that it makes final."""
        frame = stages.extract(self._backend, pixels)
        if self._frames:
            self._gaps.append(stages.interpolate(self._backend, self._frames[-1], frame))
        self._frames.append(frame)
        self._count += 1
        newest_start = self._count - self._window
        if newest_start == self._start + self._step:
            yield from self._next_window(newest_start)
        if newest_start >= 0:
            # Should the scene end soon, its last window begins no earlier than this.
            following = max(newest_start, self._start + 1)
            yield from self._yield_to(windows.boundary(self._start, following, self._window))

    def finish(self) -> Iterator[Tensor]:
        """The scene ends here: yield the rest."""
        if not self._count:
            return
        start = max(0, self._count - self._window)
        if start > self._start:
            yield from self._next_window(start)
        yield from self._yield_to(2 * self._count - 2)

    def repeat_last(self) -> Tensor:
        """The scene's last output once more, for the frame that is missing at a cut."""
        return stages.reconstruct(self._backend, self._last)

    def _next_window(self, start: int) -> Iterator[Tensor]:
        """Yield what the last window keeps, and process the window at `start`, made of the newest frames."""
        if self._start >= 0:
            yield from self._yield_to(windows.boundary(self._start, start, self._window))
        self._start = start
        self._pending.clear()
        self._pending = deque(self._hidden())
        for _ in range(self._yielded - 2 * start):
            self._pending.popleft()

    def _hidden(self) -> Iterator[Hidden]:
        features = [self._frames[0].levels["level1"]]
        for gap, frame in zip(self._gaps, list(self._frames)[1:], strict=True):
            features += [gap, frame.levels["level1"]]
        states = stages.propagate(self._backend, features, self._directions)
        neighbours = [(self._frames[0], self._frames[0])]
        for previous, following in pairwise(self._frames):
            neighbours += [(previous, following), (following, following)]
        for state, (previous, following) in zip(states, neighbours, strict=True):
            yield Hidden(state, previous, following)

    def _yield_to(self, output: int) -> Iterator[Tensor]:
        while self._yielded <= output:
            self._yielded += 1
            self._last = self._pending.popleft()
            yield stages.reconstruct(self._backend, self._last)
