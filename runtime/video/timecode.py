"""SMPTE time codes: the number of a video's first frame, written as HH:MM:SS:FF (SMPTE ST 12-1)."""

import re
from fractions import Fraction

PATTERN = re.compile(r"(\d{1,2}):(\d\d):(\d\d)([:;.])(\d{2,3})")
DAY = 24 * 3600


def move(timecode: str, rate: Fraction, by: Fraction, new_rate: Fraction) -> str | None:
    """Recount a time code for a video that begins `by` seconds later and has another frame rate.

    None if it isn't a time code of `rate` frames per second.
    """
    match = PATTERN.fullmatch(timecode.strip())
    if match is None:
        return None
    hours, minutes, seconds, frames = (int(match[group]) for group in (1, 2, 3, 5))
    drop = match[4] != ":" and _dropped(rate) > 0
    if minutes > 59 or seconds > 59 or frames >= _nominal(rate):
        return None
    number = (hours * 3600 + minutes * 60 + seconds) * _nominal(rate) + frames
    if drop:
        elapsed = hours * 60 + minutes
        number -= _dropped(rate) * (elapsed - elapsed // 10)
    number = round((number + round(by * rate)) * new_rate / rate)
    return _write(number, new_rate, drop=drop and _dropped(new_rate) > 0)


def _write(number: int, rate: Fraction, *, drop: bool) -> str:
    nominal, dropped = _nominal(rate), _dropped(rate)
    if drop:
        # Numbers are left out at the beginning of each minute, but not of each tenth.
        ten_minutes = 600 * nominal - 9 * dropped
        tens, rest = divmod(number, ten_minutes)
        minutes = max(0, rest - dropped) // (60 * nominal - dropped)
        number += dropped * (9 * tens + minutes)
    seconds, frames = divmod(number, nominal)
    seconds %= DAY
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{';' if drop else ':'}{frames:02d}"


def _nominal(rate: Fraction) -> int:
    """Frames counted per second: 30 for 30000/1001."""
    return max(1, round(rate))


def _dropped(rate: Fraction) -> int:
    """How many numbers a minute leaves out, with drop-frame counting: 2 for 30000/1001, 4 for 60000/1001."""
    return 2 * (_nominal(rate) // 30) if rate.denominator == 1001 and _nominal(rate) % 30 == 0 else 0
