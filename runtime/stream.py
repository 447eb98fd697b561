"""Frames in, frames out: windows and scenes over a stream of unknown length."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np

from zsm.errors import ArgumentError, ArgumentTypeError, WindowError
from zsm.runtime import windows
from zsm.runtime.arguments import at_least, whole_number
from zsm.runtime.backend import Backend, DevicePixels, Pixels
from zsm.runtime.frames import Check, readable
from zsm.runtime.network import Network
from zsm.runtime.tiles import OVERLAP, Tiled, TileOf
from zsm.runtime.work import Delivery, To, Whole, Work

Cuts = Iterable[int] | Callable[[Any, Any], bool] | None
"""Where new scenes begin: frame numbers, or a function that tells whether there is a cut between two frames."""


class FrameStream:
    """Frames are pushed one by one, and each push returns the outputs that have become final.

    Memory holds the frames of one window, however many are pushed. `Runtime.open_stream` opens one; several may be open
    at once, on the thread that the Runtime belongs to. There is nothing to close: drop a stream to abandon it.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        network: Network,
        window: int,
        overlap: int,
        ahead: int = 0,
        to: To | None = None,
        first: int = 0,
        every: int = 1,
        tile_of: TileOf | None = None,
        tile_overlap: int = OVERLAP,
    ) -> None:
        """Up to `ahead` outputs may still be on their way to the host when `push` returns; a later call returns them.

        Outputs go where the frames are, unless `to` says otherwise. Only the outputs numbered first, first + every, ...
        are reconstructed and returned. `tile_of` gives the size of the tiles in which frames are processed, which share
        `tile_overlap` pixels; None for whole frames.

        Raises WindowError, ArgumentError or ArgumentTypeError for invalid arguments.
        """
        if to not in (None, "host", "device"):
            raise ArgumentError(f"outputs can't go to {to!r}; choose host or device")
        lengths = windows.check(window, overlap)
        wanted = Every(at_least(0, "first", first), at_least(1, "every", every))
        self._backend = backend
        self._ahead = at_least(0, "ahead", ahead)
        self._work_of = partial(_work, backend, network, lengths[0], tile_of, tile_overlap, to)
        self._scene_of = partial(Scene, lengths=lengths, wanted=wanted)
        self._check = Check()
        self._count = 0
        self._new_work: Callable[[], Work] | None = None
        self._scene: Scene | None = None
        self._begun: deque[Delivery] = deque()
        self._open = True

    def push(self, frame: Any, *, cut: bool = False) -> list[Any]:
        """Add a frame (H,W,3), whose memory may be reused at once, and return the outputs (4H,4W,3) that became final.

        `cut`: a new scene begins with this frame; nothing is mixed across a cut. Outputs belong to the caller.

        Raises FrameError for an invalid frame or one that differs from those before it, which leaves the stream as it
        was. Raises TileError, ArgumentError, BackendError or OutOfMemoryError if the frame can't be processed, which
        ends the stream, and ArgumentError if the stream has ended.
        """
        return list(self._pushed(frame, lambda: cut))

    def finish(self) -> list[Any]:
        """End the stream and return the remaining outputs: N frames have given 2N-1 in all.

        Raises ArgumentError if the stream has ended, BackendError or OutOfMemoryError if computing fails.
        """
        return list(self._finished())

    def run(self, frames: Iterable[Any], cuts: Cuts = None) -> Iterator[Any]:
        """Push frames and finish, and yield each output before the next one is computed.

        Raises WindowError or ArgumentTypeError for invalid cuts, before the first frame is read.
        """
        return self._run(frames, _cut_function(cuts, frames))

    def _run(self, frames: Iterable[Any], is_cut: Callable[[int, Any], bool]) -> Iterator[Any]:
        for number, frame in enumerate(frames):
            yield from self._pushed(frame, partial(is_cut, number, frame))
        yield from self._finished()

    def _pushed(self, frame: Any, is_cut: Callable[[], bool]) -> Iterator[Any]:
        self._check_open()
        read = readable(self._backend, frame, self._count)
        self._check(read, self._count)
        self._open = False  # for good, if anything fails from here on
        yield from self._waited(self._begin(read, cut=is_cut()))
        self._open = True

    def _finished(self) -> Iterator[Any]:
        self._check_open()
        self._open = False
        scene, self._scene, self._new_work = self._scene, None, None
        if scene is not None:
            yield from self._waited(scene.finish())
        while self._begun:
            yield self._begun.popleft()()

    def _check_open(self) -> None:
        if not self._open:
            raise ArgumentError("the stream has finished or failed, and takes no more frames; open another")

    def _begin(self, frame: Pixels | DevicePixels, *, cut: bool) -> Iterator[Delivery]:
        """Begin each output that becomes final with this frame."""
        if self._new_work is None:
            self._new_work = self._work_of(frame)
        if self._scene is None:
            self._scene = self._scene_of(self._new_work(), 0)
        elif cut:
            yield from self._scene.finish(cut_follows=True)
            self._scene = self._scene_of(self._new_work(), self._count)
        self._count += 1
        yield from self._scene.push(frame)

    def _waited(self, outputs: Iterable[Delivery]) -> Iterator[Any]:
        """Yield the outputs in order, each waited for when `ahead` more of them have been begun."""
        for output in outputs:
            self._begun.append(output)
            del output  # or its memory would be held while the next is computed
            if len(self._begun) > self._ahead:
                yield self._begun.popleft()()


def stream(backend: Backend, frames: Iterable[Any], *, cuts: Cuts = None, **options: Any) -> Iterator[Any]:
    """Run frames through a `FrameStream` with these options.

    Raises WindowError, ArgumentError or ArgumentTypeError for invalid arguments, before the first frame is read, and
    FrameError or TileError for an invalid frame, or for one that can't be processed in tiles.
    """
    return FrameStream(backend, **options).run(frames, cuts)


def _work(
    backend: Backend,
    network: Network,
    window: int,
    tile_of: TileOf | None,
    tile_overlap: int,
    to: To | None,
    frame: Any,
) -> Callable[[], Work]:
    """How scenes of frames like this one are computed."""
    height, width = frame.shape[:2]
    on_host = isinstance(frame, np.ndarray)
    tile = None if tile_of is None else tile_of(width, height, frame.dtype.itemsize)
    if tile is None or (tile[0] >= width and tile[1] >= height):
        session = backend.open(height, width)
        return partial(Whole, session, network, window, frame.dtype, to or ("host" if on_host else "device"))
    if to == "device" or not on_host:
        raise ArgumentError(
            f"frames of {width}x{height} are processed in tiles of {tile[0]}x{tile[1]}, which are joined on the host: "
            "give frames on the host and leave out to='device', or choose smaller frames"
        )
    return partial(Tiled, backend, network, window, (height, width), frame.dtype, tile, tile_overlap)


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
    """The frames between two cuts, pushed one by one: which windows they form, and which outputs are final."""

    def __init__(self, work: Work, first_frame: int, *, lengths: tuple[int, int], wanted: Every) -> None:
        self._work = work
        self._window, overlap = lengths
        self._step = self._window - overlap
        self._wanted = wanted
        self._first_output = 2 * first_frame
        self._count = 0
        self._start = -self._step
        self._done = 0

    def push(self, frame: Pixels | DevicePixels) -> Iterator[Delivery]:
        """Add a frame, and yield the outputs that become final with it."""
        self._work.add(frame)
        self._count += 1
        newest_start = self._count - self._window
        if newest_start == self._start + self._step:
            yield from self._next_window(newest_start)
        if newest_start >= 0:
            # Should the scene end soon, its last window begins no earlier than this.
            following = max(newest_start, self._start + 1)
            yield from self._yield_to(windows.boundary(self._start, following, self._window))

    def finish(self, *, cut_follows: bool = False) -> Iterator[Delivery]:
        """Yield the remaining outputs; before a cut also the missing frame there, which repeats the last output."""
        start = max(0, self._count - self._window)
        if start > self._start:
            yield from self._next_window(start)
        yield from self._yield_to(2 * self._count - 2)
        if cut_follows:
            if self._first_output + self._done in self._wanted:
                yield self._work.repeat()
            self._done += 1

    def _next_window(self, start: int) -> Iterator[Delivery]:
        """Yield the outputs kept from the last window, and begin the window at `start`, the newest frames."""
        if self._start >= 0:
            yield from self._yield_to(windows.boundary(self._start, start, self._window))
        self._start = start
        end = min(windows.boundary(start, start + self._step, self._window) + 1, 2 * self._count - 1)
        needed = range(self._done - 2 * start, end - 2 * start)
        self._work.begin(needed, lambda output: self._first_output + 2 * start + output in self._wanted)

    def _yield_to(self, output: int) -> Iterator[Delivery]:
        while self._done <= output:
            number = self._first_output + self._done
            self._done += 1
            delivery = self._work.next(wanted=number in self._wanted)
            if delivery is not None:
                yield delivery
