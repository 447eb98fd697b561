"""Reading the part of a source that is restored, from any of its frames on, while the scan grows."""

import sys
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator
from itertools import count

from zsm.runtime.video.colour import Codes
from zsm.runtime.video.cuts import CutDetector
from zsm.runtime.video.excerpt import Excerpt
from zsm.runtime.video.scan import Scan
from zsm.runtime.video.source import Entry, Seen, Source, SourceFrame, changed


class Reader:
    """Gives the excerpt's frames as RGB, numbered from the excerpt's beginning.

    Frames that the scan knows are entered where they are. All others are decoded from the source's beginning, which
    alone is sure to be right, and added to the scan. `cuts`: the frames that begin a scene, numbered from
    the source's beginning; None detects them.
    """

    def __init__(self, source: Source, excerpt: Excerpt, scan: Scan, cuts: Collection[int] | None) -> None:
        self._scan = scan
        self._source = source
        self._given = None if cuts is None else frozenset(cuts)
        self._span = excerpt.span(source)
        self._before = bisect_left(scan.frames, self._span.begin, key=lambda frame: frame.time)
        """How many of the frames seen lie before the excerpt."""
        self._scenes = {number - self._before for number, frame in enumerate(scan.frames) if frame.scene}
        if scan.end is not None:
            source.recall(scan.frames)

    @property
    def seen(self) -> int:
        """How many frames of the excerpt have been seen."""
        return len(self._scan.frames) - self._before

    @property
    def cuts(self) -> list[int]:
        """The frames seen that begin a scene."""
        return sorted(self._scenes)

    @property
    def times(self) -> list[int]:
        """When the frames seen are shown, in the source's time base."""
        return [frame.time for frame in self._scan.frames[self._before :]]

    @property
    def last_duration(self) -> int:
        """The duration of the last frame seen, or 0 if the source doesn't say."""
        return self._scan.frames[-1].duration

    @property
    def total(self) -> int | None:
        """The number of frames in the excerpt, once the scan is complete."""
        return None if self._scan.end is None else self.seen

    @property
    def notes(self) -> list[str]:
        """What the source had to report, once the scan is complete."""
        return [] if self._scan.end is None else self._scan.end.notes

    def see(self, frames: int) -> Iterator[None]:
        """See the first `frames` frames, if there are as many. Yields after each that is decoded for that."""
        if self.total is None and self.seen < frames:
            for _ in self.scan_on():
                yield
                if self.seen >= frames:
                    return

    def scan_on(self) -> Iterator[None]:
        """See all frames. Yields after each, and once more at the end."""
        if self.total is None:
            for _ in self._read_on(sys.maxsize):
                yield
        yield

    def scenes(self, first: int) -> Callable[[Codes, Codes], bool]:
        """Make a function that, called for each frame after `first` in turn, tells whether a scene begins there."""
        numbers = count(first + 1)
        return lambda previous, frame: next(numbers) in self._scenes

    def frames(self, first: int = 0, end: int | None = None) -> Iterator[Codes]:
        """Yield frame `first` and those after it, up to `end` or the excerpt's end.

        Raises VideoError if a frame can't be decoded, or is decoded differently than when it was seen first.
        """
        if self._scan.end is not None or (end is not None and end <= self.seen):
            last = self.seen if end is None else min(end, self.seen)
            if first < last:
                yield from (frame.pixels() for frame in self._source.enter(self.entry(first, last)))
            return
        for number, pixels in self._read_on(first):
            if number == end:
                return
            if number >= first and pixels is not None:
                yield pixels

    def entry(self, first: int, end: int) -> Entry:
        """Describe how to get to some of the frames seen."""
        return self._scan.entry(self._before + first, self._before + end)

    def _read_on(self, first: int) -> Iterator[tuple[int, Codes | None]]:
        """Decode from the source's beginning to the excerpt's end, and complete the scan.

        Yields each frame's number, which is negative before the excerpt, and its pixels from number `first` on and
        where the scan grows.
        """
        seen = self._scan.frames
        previous: Codes | None = None
        is_cut = self._cut_detector()
        for place, frame in enumerate(self._source.frames()):
            number = place - self._before
            pixels: Codes | None = None
            if place < len(seen):
                if number >= first and not seen[place].matches(frame):
                    raise changed(self._source.info.name, place)
                if number >= first or (place == len(seen) - 1 and number >= 0):
                    pixels = frame.pixels()
            elif frame.time < self._span.begin:
                self._add(frame, scene=False)
                self._before += 1
                number -= 1
            elif self._span.ends(frame.time, number):
                break
            else:
                pixels = frame.pixels()
                self._add(frame, scene=is_cut(number, previous, pixels))
            yield number, pixels
            previous = pixels
        self._scan.finish(self._source.notes())

    def _add(self, frame: SourceFrame, *, scene: bool) -> None:
        if scene:
            self._scenes.add(self.seen)
        self._scan.add(
            Seen(
                time=frame.time,
                stamp=frame.stamp,
                duration=frame.duration,
                key=frame.key,
                digest=frame.digest(),
                scene=scene,
            )
        )

    def _cut_detector(self) -> Callable[[int, Codes | None, Codes], bool]:
        """Make a function of a frame's number, the frame before it, and the frame itself."""
        if self._given is not None:
            given = self._given
            return lambda number, previous, pixels: number > 0 and self._before + number in given
        detect = CutDetector()
        return lambda number, previous, pixels: previous is not None and detect(previous, pixels)
