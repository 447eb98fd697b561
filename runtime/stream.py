"""Frames in, frames out: windows and scenes over a stream of unknown length."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Literal

import numpy as np

from zsm.errors import ArgumentError, ArgumentTypeError, WindowError
from zsm.runtime import network as stages
from zsm.runtime import windows
from zsm.runtime.arguments import at_least, whole_number
from zsm.runtime.backend import Backend, DevicePixels, Pixels, Session, Tensor
from zsm.runtime.frames import Check, readable
from zsm.runtime.network import Features, Hidden, Network

Cuts = Iterable[int] | Callable[[Any, Any], bool] | None
"""Where new scenes begin: frame numbers, or a function that tells whether there is a cut between two frames."""

To = Literal["host", "device"]
"""Where outputs go: NumPy arrays, or frames in the device's memory."""

Delivery = Callable[[], Any]
"""An output on its way; calling it waits for the output."""


def stream(
    backend: Backend,
    frames: Iterable[Any],
    *,
    network: Network,
    window: int,
    overlap: int,
    cuts: Cuts = None,
    ahead: int = 0,
    to: To | None = None,
    first: int = 0,
    every: int = 1,
) -> Iterator[Any]:
    """Yield each output of a stream of frames as soon as no later window can change it.

    Memory holds the frames of one window, however long the stream is. Up to `ahead` outputs may still be on their way
    to the host while the next frame is read. Outputs go where the frames are, unless `to` says otherwise. Only the
    outputs numbered first, first + every, ... are reconstructed and yielded.

    Raises WindowError, ArgumentError or ArgumentTypeError for invalid arguments, before the first frame is read, and
    FrameError for an invalid frame.
    """
    if to not in (None, "host", "device"):
        raise ArgumentError(f"outputs can't go to {to!r}; choose host or device")
    scene_of = partial(
        Scene,
        network=network,
        lengths=windows.check(window, overlap),
        wanted=Every(at_least(0, "first", first), at_least(1, "every", every)),
    )
    return _waited(_begun(backend, frames, scene_of, _cut_function(cuts, frames), to), at_least(0, "ahead", ahead))


def _begun(
    backend: Backend,
    frames: Iterable[Any],
    scene_of: Callable[..., "Scene"],
    is_cut: Callable[[int, Any], bool],
    to: To | None,
) -> Iterator[Delivery]:
    """Begin each output."""
    check = Check()
    scene: Scene | None = None
    for number, given in enumerate(frames):
        frame = readable(backend, given, number)
        check(frame, number)
        cut = is_cut(number, given)
        if scene is None:
            session = backend.open(*frame.shape[:2])
            to = to or ("host" if isinstance(frame, np.ndarray) else "device")
            deliver = partial(_deliver, session, to)
            scene = scene_of(session, frame.dtype, 0)
        elif cut:
            yield from map(deliver, scene.finish(cut_follows=True))
            scene = scene_of(session, frame.dtype, number)
        yield from map(deliver, scene.push(frame))  # map holds no tensor while the next one is computed
    if scene is not None:
        yield from map(deliver, scene.finish())


def _deliver(session: Session, to: To, pixels: Tensor) -> Delivery:
    if to == "device":
        return partial(session.export, pixels)
    copy = session.to_host(pixels)
    return lambda: copy()[0]


def _waited(outputs: Iterable[Delivery], ahead: int) -> Iterator[Any]:
    """Yield the outputs in order, each waited for when `ahead` more of them have been begun."""
    begun: deque[Delivery] = deque()
    for output in outputs:
        begun.append(output)
        del output  # or its memory would be held while the next is computed
        if len(begun) > ahead:
            yield begun.popleft()()
    while begun:
        yield begun.popleft()()


def _cut_function(cuts: Cuts, frames: Iterable[Any]) -> Callable[[int, Any], bool]:
    """Make a function that gets each frame and its number, in order, and returns whether a scene begins there."""
    if not callable(cuts):
        numbers = frozenset() if cuts is None else frame_numbers(cuts)
        return lambda number, frame: number in numbers
    # A generator may yield one buffer again and again; what lies in a container doesn't change.
    changing = not isinstance(frames, (list, tuple, np.ndarray))
    before: Any = None

    def is_cut(number: int, frame: Any) -> bool:
        nonlocal before
        cut = number > 0 and bool(cuts(before, frame))
        before = frame.copy() if changing and isinstance(frame, np.ndarray) else frame
        return cut

    return is_cut


def frame_numbers(cuts: Iterable[int]) -> frozenset[int]:
    """Convert cuts given as frame numbers; raises WindowError or ArgumentTypeError."""
    if not isinstance(cuts, Iterable):
        raise ArgumentTypeError(f"cuts is {cuts!r}; give frame numbers, or a function of two frames")
    numbers = [whole_number("a cut", cut) for cut in cuts]
    if numbers and min(numbers) < 0:
        raise WindowError(f"there is no frame {min(numbers)} to cut at; give the numbers of frames that begin a scene")
    return frozenset(numbers)


class Every:
    """The outputs numbered first, first + every, ..."""

    def __init__(self, first: int, every: int) -> None:
        self._first = first
        self._every = every

    def __contains__(self, output: int) -> bool:
        return output >= self._first and (output - self._first) % self._every == 0


class Scene:
    """The frames between two cuts, pushed one by one. Each is extracted once, each gap interpolated once.

    Yields pixels (1,4h,4w,3), on the device.
    """

    def __init__(
        self,
        session: Session,
        dtype: np.dtype[Any],
        first_frame: int,
        *,
        network: Network,
        lengths: tuple[int, int],
        wanted: Every,
    ) -> None:
        self._session = session
        self._dtype = dtype
        self._network = network
        self._window, overlap = lengths
        self._step = self._window - overlap
        self._wanted = wanted
        self._first_output = 2 * first_frame
        self._features: deque[Features] = deque(maxlen=self._window)
        self._gaps: deque[Tensor] = deque(maxlen=self._window - 1)
        self._count = 0
        self._start = -self._step
        self._pending: deque[Hidden] = deque()
        self._done = 0

    def push(self, frame: Pixels | DevicePixels) -> Iterator[Tensor]:
        """Add a frame, and yield the outputs that become final with it."""
        features = stages.extract(self._session, frame)
        if self._features:
            self._gaps.append(stages.interpolate(self._session, self._features[-1], features))
        self._features.append(features)
        self._count += 1
        newest_start = self._count - self._window
        if newest_start == self._start + self._step:
            yield from self._next_window(newest_start)
        if newest_start >= 0:
            # Should the scene end soon, its last window begins no earlier than this.
            following = max(newest_start, self._start + 1)
            yield from self._yield_to(windows.boundary(self._start, following, self._window))

    def finish(self, *, cut_follows: bool = False) -> Iterator[Tensor]:
        """Yield the remaining outputs; before a cut also the missing frame there, which repeats the last output."""
        start = max(0, self._count - self._window)
        if start > self._start:
            yield from self._next_window(start)
        yield from self._yield_to(2 * self._count - 2)
        if cut_follows:
            self._pending.append(self._last)
            yield from self._yield_to(2 * self._count - 1)

    def _next_window(self, start: int) -> Iterator[Tensor]:
        """Yield the outputs kept from the last window, and process the window at `start`, the newest frames."""
        if self._start >= 0:
            yield from self._yield_to(windows.boundary(self._start, start, self._window))
        self._start = start
        self._pending.clear()
        self._pending = deque(stages.window(self._session, self._network, self._features, self._gaps))
        for _ in range(self._done - 2 * start):
            self._pending.popleft()

    def _yield_to(self, output: int) -> Iterator[Tensor]:
        while self._done <= output:
            number = self._first_output + self._done
            self._done += 1
            self._last = self._pending.popleft()
            if number in self._wanted:
                yield stages.reconstruct(self._session, self._network, self._last, self._dtype)
