"""When frames are shown: pure functions on time stamps.

N pictures become 2N-1 frames, the new ones halfway between their neighbours. Times are integers; what they
count is the source's time base, halved in mode `double`, so that halfway is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Literal, get_args

from zsm.errors import VideoError

FpsMode = Literal["double", "slow", "keep"]
"""double: twice the rate, same duration. slow: same rate, twice the duration. keep: only the original frames."""


def check_mode(mode: str) -> None:
    """Raise VideoError unless this is a mode."""
    if mode not in get_args(FpsMode):
        raise VideoError(f"there is no fps mode {mode!r}; give {', '.join(get_args(FpsMode))}")


def stretch(mode: FpsMode) -> int:
    """How much longer the output lasts."""
    return 2 if mode == "slow" else 1


def output_rate(rate: Fraction, mode: FpsMode) -> Fraction:
    """The output's frames per second."""
    return rate * 2 if mode == "double" else rate


def output_time_base(time_base: Fraction, mode: FpsMode) -> Fraction:
    """What the output's times count."""
    return time_base / 2 if mode == "double" else time_base


def frames_out(pictures: int, mode: FpsMode) -> int:
    """How many frames are made of so many pictures."""
    return pictures if mode == "keep" else max(0, 2 * pictures - 1)


def output_times(times: Sequence[int], mode: FpsMode) -> list[int]:
    """The output's times, in `output_time_base`, for strictly increasing times of the pictures."""
    if mode == "keep" or not times:
        return list(times)
    halfway = [time for a, b in pairwise(times) for time in (2 * a, a + b)]
    return [*halfway, 2 * times[-1]]


def last_duration(times: Sequence[int], announced: int, mode: FpsMode) -> int:
    """How long the last frame is shown, in `output_time_base`: as long as the last picture was."""
    gap = times[-1] - times[-2] if len(times) > 1 else 1
    return (announced or gap) * (1 if mode == "keep" else 2)


def is_variable(times: Sequence[int]) -> bool:
    """Whether some pictures are shown clearly longer than others."""
    gaps = [b - a for a, b in pairwise(times)]
    return bool(gaps) and max(gaps) > 1.5 * min(gaps)


def decoding_time(position: int, delay: int, times: Sequence[int]) -> int:
    """The decoding time of the packet at `position`, where packets are up to `delay` frames out of order.

    That is the presentation time of the frame `delay` places earlier; before the first frame, times go on
    backwards at the first interval.
    """
    index = position - delay
    if index >= 0:
        return times[index]
    first_interval = times[1] - times[0] if len(times) > 1 else 1
    return times[0] + index * first_interval


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """The part of a source that is wanted; start and end in seconds after the file's beginning."""

    start: Fraction = Fraction(0)
    end: Fraction | None = None
    frames: int | None = None

    def __post_init__(self) -> None:
        if self.start < 0:
            raise VideoError(f"the start can't be negative; it is {float(self.start):g} s")
        if self.end is not None and self.end <= self.start:
            raise VideoError(f"the end ({float(self.end):g} s) must come after the start ({float(self.start):g} s)")
        if self.frames is not None and self.frames < 1:
            raise VideoError(f"at least 1 frame has to be processed, not {self.frames}")

    @property
    def shifts(self) -> bool:
        """Whether the output begins at time 0 because the source is entered later."""
        return self.start > 0


def parse_time(text: str) -> Fraction:
    """Seconds from `90`, `1:30`, `0:01:30.5`; VideoError for anything else."""
    try:
        parts = [Fraction(part) for part in text.split(":")]
        if not 1 <= len(parts) <= 3 or any(part < 0 for part in parts) or "/" in text:
            raise ValueError
    except ValueError:
        raise VideoError(f"{text!r} is no time; give seconds or H:MM:SS, for example 90 or 0:01:30.5") from None
    seconds = Fraction(0)
    for part in parts:
        seconds = seconds * 60 + part
    return seconds
