"""One time line for a file whose clock jumps, as in recordings that were joined and in streams that restarted.

The pictures decide: where their clock jumps, an offset begins that lets them continue one frame later. Sound and
subtitles take the same offsets, so that everything stays together. All times are in seconds.
"""

from collections.abc import Sequence
from fractions import Fraction

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


class Follower:
    """The clock of another stream, which takes the offsets that the pictures have found."""

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
