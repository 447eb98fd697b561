"""Which frames are processed together: pure functions of frame numbers.

N input frames give 2N-1 outputs: output 2i is input i, output 2i+1 the missing frame after it. A window is a run of
consecutive inputs; neighbouring windows share `overlap` of them. Of the outputs within a shared span, those up to its
middle come from the earlier window, the others from the later one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import SupportsIndex

from zsm.errors import WindowError
from zsm.runtime.arguments import whole_number


@dataclass(frozen=True, kw_only=True)
class Window:
    """Input frames that are processed together, and the outputs taken from them."""

    frames: range
    """The input frames that the window reads."""
    outputs: range
    """The outputs kept, numbered over the whole clip."""
    repeats_last: bool = False
    """A cut follows: the missing frame before it repeats the last output kept, and has the next number."""


def check(window: SupportsIndex, overlap: SupportsIndex) -> tuple[int, int]:
    """Convert a window and an overlap to int.

    Raises WindowError for values that don't fit together, and ArgumentTypeError for anything but whole numbers.
    """
    window, overlap = whole_number("window", window), whole_number("overlap", overlap)
    if window < 2:
        raise WindowError(f"a window of {window} frames has no gap to fill; give at least 2 (networks learn 4)")
    if not 1 <= overlap < window:
        raise WindowError(f"an overlap of {overlap} doesn't fit a window of {window}; give 1 to {window - 1}")
    return window, overlap


def boundary(start: int, following: int, window: int) -> int:
    """The last output kept from the window at input `start`, when the next one begins at input `following`."""
    # The middle of the shared span: inputs `following` to `start + window - 1`, outputs are twice as many.
    return following + start + window - 1


def starts(frames: int, window: int, overlap: int) -> list[int]:
    """Where the windows of a scene begin; the last one is slid back to full length if the scene is long enough."""
    last = max(0, frames - window)
    return [*range(0, last, window - overlap), last]


def latency(window: int) -> int:
    """The most input frames read after an output's own when it is yielded."""
    return window - 1


def restart(done: int, cuts: Iterable[int], window: int, overlap: int) -> int:
    """The input frame from which a stream must begin, for output `done` and those after it to stay the same.

    A scene's windows lie on a grid that begins with the scene, except for the last one, which is slid back. The frame
    is on that grid, far enough back that output `done` comes from no earlier window, and that the scene is known to
    last for another window, so that its last window is the same.
    """
    scene = max((cut for cut in cuts if 2 * cut <= done), default=0)
    step = window - overlap
    latest = done // 2 + 1 - window
    return scene + max(0, latest - scene) // step * step


def needed(end: int, window: int) -> int:
    """How many of a clip's input frames are enough for the outputs before `end` to be as in the whole clip."""
    return (end + 1) // 2 + latency(window)


def plan(frames: int, window: int = 4, overlap: int = 1, cuts: Iterable[int] = ()) -> list[Window]:
    """The windows of a clip of `frames` frames; `cuts` are the numbers of frames that begin a new scene.

    No window crosses a cut, and the grid of windows restarts there, so that any scene can be processed alone with the
    same result. Raises WindowError for invalid lengths and cuts, ArgumentTypeError for anything but whole numbers.
    """
    window, overlap = check(window, overlap)
    if frames < 0:
        raise WindowError(f"a clip can't have {frames} frames")
    cuts = set(cuts)
    outside = sorted(cut for cut in cuts if not 0 <= cut < max(frames, 1))
    if outside:
        raise WindowError(f"there is no frame {outside[0]} to cut at in a clip of {frames} frames")
    scenes = pairwise(sorted({0, *cuts, frames}))
    return [w for first, end in scenes for w in _scene(first, end, window, overlap, cut_follows=end < frames)]


def _scene(first: int, end: int, window: int, overlap: int, *, cut_follows: bool) -> list[Window]:
    begins = [first + start for start in starts(end - first, window, overlap)]
    ends = [boundary(start, following, window) + 1 for start, following in pairwise(begins)]
    ends.append(2 * end - 1)
    outputs = [range(a, b) for a, b in pairwise([2 * first, *ends])]
    return [
        Window(
            frames=range(start, min(start + window, end)),
            outputs=kept,
            repeats_last=cut_follows and start == begins[-1],
        )
        for start, kept in zip(begins, outputs, strict=True)
    ]
