"""One time line for a file whose clock jumps, as in recordings that were joined and in streams that restarted.

The pictures decide: where their clock jumps, an offset begins that lets them continue one frame later. Sound and
subtitles take the same offsets, so that everything stays together. All times are in seconds.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

LONGEST_GAP = Fraction(10)
"""Longer ones are jumps, in formats made for broadcasting."""
SHORTEST_JUMP = Fraction(1, 10)
"""A clock that goes back by less, or by less than two frames, is inexact rather than set anew."""
SUSPECT = 3
"""For so many frames after a jump, the clock may still return: one stamp was wrong."""


class Clock:
    """The clock of a file's pictures, made to go forward only."""

    def __init__(self, *, jumps_ahead: bool) -> None:
        self.offsets = [Fraction(0)]
        """What to add to the file's times: at first, after the first jump, after the second, ..."""
        self.corrected = 0
        """The number of frames whose stamp was wrong."""
        self._longest = LONGEST_GAP if jumps_ahead else None
        self._previous: Fraction | None = None
        self._since_jump = 0

    def place(self, stamp: Fraction | None, step: Fraction, tick: Fraction) -> Fraction:
        """Return when to show the next frame, at least a tick after the one before.

        `step` is the distance to expect between frames.
        """
        if self._previous is None:
            time = stamp if stamp is not None else Fraction(0)
        elif stamp is None:
            time = self._previous + step
        else:
            time = self._after(self._previous, stamp, step, tick)
        self._previous = time
        self._since_jump += 1
        return time

    def _after(self, previous: Fraction, stamp: Fraction, step: Fraction, tick: Fraction) -> Fraction:
        expected = previous + step
        time = stamp + self.offsets[-1]
        if len(self.offsets) > 1 and self._since_jump <= SUSPECT:
            without_jump = stamp + self.offsets[-2]
            if without_jump > previous and abs(without_jump - expected) < abs(time - expected):
                self.offsets.pop()
                self.corrected += self._since_jump
                return without_jump
        if previous - time >= max(SHORTEST_JUMP, 2 * step) or (self._longest and time - previous > self._longest):
            self.offsets.append(expected - stamp)
            self._since_jump = 0
            return expected
        if time <= previous:
            self.corrected += 1
            return previous + tick
        return time


def time_of(packet: Any) -> Fraction | None:
    """A packet's own time, in seconds, if it has one."""
    stamp = packet.pts if packet.pts is not None else packet.dts
    return None if stamp is None else Fraction(stamp * packet.time_base)


class Followers:
    """The clocks of the other streams, which take the offsets that the pictures have found."""

    def __init__(self, streams: Iterable[Any], offsets: Sequence[Fraction]) -> None:
        self._streams = {stream.index: _Follower(offsets, sparse=stream.type != "audio") for stream in streams}
        self._jumps = 0  # as the sound has followed, which subtitles are too far apart to tell

    def offset(self, packet: Any, time: Fraction) -> Fraction:
        """Return what to add to the time of a packet. Packets come in the file's order."""
        follower = self._streams[packet.stream.index]
        if packet.stream.type != "audio":
            return follower.offset(time, Fraction(0), at_least=self._jumps)
        offset = follower.offset(time, (packet.duration or 0) * packet.time_base)
        self._jumps = max(self._jumps, follower.jumps)
        return offset


class _Follower:
    """The clock of one of them."""

    def __init__(self, offsets: Sequence[Fraction], *, sparse: bool) -> None:
        self.jumps = 0
        """The number of jumps it has followed."""
        self._offsets = offsets
        self._longest = None if sparse else LONGEST_GAP
        self._expected: Fraction | None = None

    def offset(self, stamp: Fraction, duration: Fraction, *, at_least: int = 0) -> Fraction:
        """Return what to add to the next packet's time, known to come after `at_least` jumps."""
        self.jumps = max(self.jumps, at_least)
        expected = stamp + self._offsets[self.jumps] if self._expected is None else self._expected

        def surprise(jumps: int) -> Fraction:
            return abs(stamp + self._offsets[jumps] - expected)

        ahead = stamp + self._offsets[self.jumps] - expected
        if ahead < -SHORTEST_JUMP or (self._longest and ahead > self._longest):
            self.jumps = min(range(self.jumps, len(self._offsets)), key=surprise)
        self._expected = stamp + self._offsets[self.jumps] + duration
        return self._offsets[self.jumps]
