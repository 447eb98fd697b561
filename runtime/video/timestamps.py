"""When frames are shown: pure functions of timestamps.

N frames become 2N-1, the new ones halfway between their neighbours. Times are integers that count the source's time
base, or in mode `double` half of it, so that halfway is exact.
"""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Literal, get_args

from zsm.errors import ArgumentError

FpsMode = Literal["double", "slow", "keep"]
"""double: twice the rate, same duration. slow: same rate, twice the duration. keep: only the original frames."""


def check_mode(mode: str) -> None:
    """Raise ArgumentError unless `mode` is an `FpsMode`."""
    if mode not in get_args(FpsMode):
        raise ArgumentError(f"unknown fps mode {mode!r}; choose {', '.join(get_args(FpsMode))}")


def stretch(mode: FpsMode) -> int:
    """By what factor the output lasts longer than the source."""
    return 2 if mode == "slow" else 1


def output_rate(rate: Fraction, mode: FpsMode) -> Fraction:
    """The output's frames per second."""
    return rate * 2 if mode == "double" else rate


def output_time_base(time_base: Fraction, mode: FpsMode) -> Fraction:
    """The unit of the output's times, in seconds."""
    return time_base / 2 if mode == "double" else time_base


def frames_out(frames: int, mode: FpsMode) -> int:
    """The number of output frames for `frames` input frames."""
    return frames if mode == "keep" else max(0, 2 * frames - 1)


def output_times(times: Sequence[int], mode: FpsMode) -> list[int]:
    """The output's times, in `output_time_base`, for strictly increasing input times."""
    if mode == "keep" or not times:
        return list(times)
    halfway = [time for a, b in pairwise(times) for time in (2 * a, a + b)]
    return [*halfway, 2 * times[-1]]


def last_duration(times: Sequence[int], announced: int, mode: FpsMode) -> int:
    """The duration of the last output frame, in `output_time_base`: that of the last input frame."""
    gap = times[-1] - times[-2] if len(times) > 1 else 1
    return (announced or gap) * (1 if mode == "keep" else 2)


def is_variable(times: Sequence[int]) -> bool:
    """Whether some frames are shown clearly longer than others."""
    gaps = [b - a for a, b in pairwise(times)]
    return bool(gaps) and max(gaps) > 1.5 * min(gaps)


def decoding_time(position: int, delay: int, times: Sequence[int]) -> int:
    """The decoding time of the packet at `position`, if packets are up to `delay` frames out of order.

    That is the presentation time of the frame `delay` places earlier; before the first frame, times are extrapolated
    at the first interval.
    """
    index = position - delay
    if index >= 0:
        return times[index]
    first_interval = times[1] - times[0] if len(times) > 1 else 1
    return times[0] + index * first_interval
