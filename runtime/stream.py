"""Frames in, frames out: windows and scenes over a stream whose length nobody knows."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import numpy as np

from zsm.errors import Error
from zsm.runtime import stages, windows
from zsm.runtime.backend import Backend, Pixels, Tensor
from zsm.runtime.stages import Frame, Hidden

Cuts = Iterable[int] | Callable[[Pixels, Pixels], bool] | None
"""Where new scenes begin: frame numbers, or whether there is a cut between two neighbouring frames."""

DTYPES = (np.uint8, np.uint16, np.float32)


class FrameError(Error):
    """A frame of a type or shape that can't be processed."""


def stream(
    backend: Backend,
    frames: Iterable[Pixels],
    *,
    directions: int,
    window: int,
    overlap: int,
    cuts: Cuts = None,
) -> Iterator[Pixels]:
    """The outputs of a stream of frames, each as soon as no later window can change it.

    Memory holds the frames of one window, however long the stream is. Raises WindowError at once for a window or
    cuts that can't be.
    """
    windows.check(window, overlap)
    new_scene = cuts if callable(cuts) else None
    numbers = _numbers(cuts) if cuts is not None and not callable(cuts) else frozenset()

    def outputs() -> Iterator[Pixels]:
        scene = Scene(backend, directions, window, overlap)
        previous: Pixels | None = None
        for number, frame in enumerate(frames):
            check_frame(frame, number, previous)
            if previous is not None and (number in numbers or (new_scene and new_scene(previous, frame))):
                yield from scene.finish()
                yield scene.repeat_last()
                scene = Scene(backend, directions, window, overlap)
            yield from scene.push(frame)
            # Who gives the frames may use one buffer for all of them.
            previous = frame.copy() if new_scene else frame
        yield from scene.finish()

    return outputs()


def _numbers(cuts: Iterable[int]) -> frozenset[int]:
    if not isinstance(cuts, Iterable):
        raise windows.WindowError(f"cuts are {cuts!r}; give numbers of frames, or a function of two frames")
    numbers = list(cuts)
    for cut in numbers:
        if not isinstance(cut, (int, np.integer)) or isinstance(cut, bool) or cut < 0:
            raise windows.WindowError(f"there can be no cut at {cut!r}; give numbers of frames that begin a scene")
    return frozenset(map(int, numbers))


def check_frame(frame: Pixels, number: int, previous: Pixels | None) -> None:
    """Raise FrameError unless this is a frame, and one like the frame before it."""
    if not isinstance(frame, np.ndarray):
        raise FrameError(f"frame {number} is a {type(frame).__name__}; give NumPy arrays (height, width, 3)")
    if frame.ndim != 3 or frame.shape[2] != 3 or not all(frame.shape):
        raise FrameError(f"frame {number} has the shape {frame.shape}; give RGB frames (height, width, 3)")
    if frame.dtype not in DTYPES:
        raise FrameError(f"frame {number} is of type {frame.dtype}; give uint8, uint16, or float32 in [0, 1]")
    if previous is not None and (frame.shape, frame.dtype) != (previous.shape, previous.dtype):
        raise FrameError(
            f"frame {number} is {_kind(frame)}, the frames before it are {_kind(previous)}; "
            "all frames of a stream must be alike: start a new stream where they change"
        )


def _kind(frame: Pixels) -> str:
    return f"{frame.shape[1]}x{frame.shape[0]} {frame.dtype}"


class Scene:
    """The frames between two cuts, pushed one by one. Each is extracted once, each gap interpolated once."""

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

    def push(self, pixels: Pixels) -> Iterator[Pixels]:
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

    def finish(self) -> Iterator[Pixels]:
        """The scene ends here: yield the rest."""
        if not self._count:
            return
        start = max(0, self._count - self._window)
        if start > self._start:
            yield from self._next_window(start)
        yield from self._yield_to(2 * self._count - 2)

    def repeat_last(self) -> Pixels:
        """The scene's last output once more, for the frame that is missing at a cut."""
        return stages.reconstruct(self._backend, self._last)

    def _next_window(self, start: int) -> Iterator[Pixels]:
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

    def _yield_to(self, output: int) -> Iterator[Pixels]:
        while self._yielded <= output:
            self._yielded += 1
            self._last = self._pending.popleft()
            yield stages.reconstruct(self._backend, self._last)
