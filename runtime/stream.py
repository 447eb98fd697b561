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
    tile_of: TileOf | None = None,
    tile_overlap: int = OVERLAP,
) -> Iterator[Any]:
    """Yield each output of a stream of frames as soon as no later window can change it.

    Memory holds the frames of one window, however long the stream is. Up to `ahead` outputs may still be on their way
    to the host while the next frame is read. Outputs go where the frames are, unless `to` says otherwise. Only the
    outputs numbered first, first + every, ... are reconstructed and yielded. `tile_of` gives the size of the tiles in
    which frames are processed, which share `tile_overlap` pixels; None for whole frames.

    Raises WindowError, ArgumentError or ArgumentTypeError for invalid arguments, before the first frame is read, and
    FrameError or TileError for an invalid frame, or for one that can't be processed in tiles.
    """
    if to not in (None, "host", "device"):
        raise ArgumentError(f"outputs can't go to {to!r}; choose host or device")
    lengths = windows.check(window, overlap)
    wanted = Every(at_least(0, "first", first), at_least(1, "every", every))
    work_of = partial(_work, backend, network, lengths[0], tile_of, tile_overlap, to)
    scene_of = partial(Scene, lengths=lengths, wanted=wanted)
    return _waited(_begun(backend, frames, work_of, scene_of, _cut_function(cuts, frames)), at_least(0, "ahead", ahead))


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


def _begun(
    backend: Backend,
    frames: Iterable[Any],
    work_of: Callable[[Any], Callable[[], Work]],
    scene_of: Callable[..., "Scene"],
    is_cut: Callable[[int, Any], bool],
) -> Iterator[Delivery]:
    """Begin each output."""
    check = Check()
    scene: Scene | None = None
    for number, given in enumerate(frames):
        frame = readable(backend, given, number)
        check(frame, number)
        cut = is_cut(number, given)
        if scene is None:
            work = work_of(frame)
            scene = scene_of(work(), 0)
        elif cut:
            yield from scene.finish(cut_follows=True)
            scene = scene_of(work(), number)
        yield from scene.push(frame)
    if scene is not None:
        yield from scene.finish()


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
