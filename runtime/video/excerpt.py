"""The part of a source that is restored."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import av

from zsm.errors import ArgumentError
from zsm.runtime.video.source import Info, Source, SourceFrame
from zsm.runtime.video.videofile import VideoSource

LONGEST_PREROLL = Fraction(1)
"""Seconds; 80 ms are usual for Opus, 23 or 46 for AAC."""

LATEST = 10**9
"""The latest start and end, in seconds; beyond any video."""


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """The part of a source to restore; start and end in seconds from the file's beginning.

    Raises ArgumentError for an empty or negative range, or one that ends after `LATEST`.
    """

    start: Fraction = Fraction(0)
    end: Fraction | None = None
    frames: int | None = None
    """The most input frames to read."""

    def __post_init__(self) -> None:
        if self.start < 0:
            raise ArgumentError(f"the start can't be negative, got {float(self.start):g} s")
        if max(self.start, self.end or 0) > LATEST:
            raise ArgumentError(f"the start and the end can be at most {LATEST} s")
        if self.end is not None and self.end <= self.start:
            raise ArgumentError(f"the end ({float(self.end):g} s) must come after the start ({float(self.start):g} s)")
        if self.frames is not None and self.frames < 1:
            raise ArgumentError(f"frames must be at least 1, got {self.frames}")

    @property
    def shifts(self) -> bool:
        """Whether the output's clock starts later than the source's."""
        return self.start > 0

    def frames_expected(self, info: Info) -> int | None:
        """Estimate the number of frames in the excerpt; None if the source doesn't announce its length."""
        limits = [] if info.frames is None else [max(0, info.frames - round(self.start * info.rate))]
        if self.end is not None:
            limits.append(round((self.end - self.start) * info.rate))
        if self.frames is not None:
            limits.append(self.frames)
        return min(limits, default=None)

    def span(self, source: Source) -> "Span":
        """Convert to the source's own clock."""
        origin, tick = _origin(source), source.info.time_base
        end = None if self.end is None else ceil((origin + self.end) / tick)
        return Span(begin=ceil((origin + self.start) / tick), end=end, frames=self.frames)

    def zero(self, source: Source) -> Fraction:
        """The time on the source's clock, in seconds, that becomes 0 in the output.

        That is where the source's first stream begins. But sound just below 0 stays there: it prepares decoders, and
        players skip it.
        """
        origin = _origin(source)
        anywhere = isinstance(source, VideoSource) and source.clock_jumps
        if -LONGEST_PREROLL < origin < 0 and not anywhere and not self.shifts:
            return Fraction(0)
        return origin + self.start


@dataclass(frozen=True, kw_only=True)
class Span:
    """An excerpt in the time base of its source."""

    begin: int
    end: int | None
    frames: int | None

    def select(self, frames: Iterable[SourceFrame]) -> Iterator[SourceFrame]:
        """Yield those of a source's frames that lie in the excerpt."""
        for count, frame in enumerate(frame for frame in frames if frame.time >= self.begin):
            if self.ends(frame.time, count):
                return
            yield frame

    def ends(self, time: int, count: int) -> bool:
        """Whether a frame at `time` comes after the end, if `count` frames lie between the beginning and it."""
        return (self.end is not None and time >= self.end) or count == self.frames


def _origin(source: Source) -> Fraction:
    """The time on the source's own clock at which the file begins."""
    if not isinstance(source, VideoSource):
        return Fraction(0)
    return Fraction(source.container.start_time or 0, av.time_base)


def parse_time(text: str) -> Fraction:
    """Convert `90`, `1:30` or `0:01:30.5` to seconds; raises ArgumentError for anything else."""
    try:
        parts = [Fraction(part) for part in text.split(":")]
    except (ValueError, ZeroDivisionError):
        parts = []
    if not 1 <= len(parts) <= 3 or any(part < 0 for part in parts) or "/" in text:
        raise ArgumentError(f"invalid time {text!r}; give seconds or H:MM:SS, for example 90 or 0:01:30.5")
    seconds = Fraction(0)
    for part in parts:
        seconds = seconds * 60 + part
    return seconds
