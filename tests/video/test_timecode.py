"""Time codes are recounted for the output's rate and beginning."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.video.conftest import REPEATER

from zsm.runtime.video import Encoding, restore, timecode

Ffmpeg = Callable[..., bytes]
Probe = Callable[..., Any]
NTSC = Fraction(30000, 1001)


def read_back(probe: Probe, path: Path) -> str | None:
    found: str | None = probe(path)["streams"][0].get("tags", {}).get("timecode")
    return found


@pytest.mark.parametrize(
    ("given", "rate", "options", "expected"),
    [
        ("01:00:00:12", "25", {}, "01:00:00:24"),
        ("01:00:00:12", "25", {"fps_mode": "keep"}, "01:00:00:12"),
        ("01:00:00:12", "25", {"fps_mode": "slow"}, "01:00:00:12"),
        ("01:00:00:12", "25", {"start": 1}, "01:00:01:24"),
        ("23:59:59:24", "25", {"start": 1}, "00:00:00:48"),
        ("10:00:00:20", "24000/1001", {}, "10:00:00:40"),
        ("00:00:59;29", "30000/1001", {}, "00:00:59;58"),
        ("00:01:00;02", "30000/1001", {}, "00:01:00;04"),
    ],
)
@pytest.mark.parametrize("suffix", ["mov", pytest.param("mp4", marks=pytest.mark.slow)])
def test_the_start_is_the_same_moment(
    ffmpeg: Ffmpeg, probe: Probe, tmp_path: Path, suffix: str, given: str, rate: str, options: Any, expected: str
) -> None:
    source, target = tmp_path / "in.mov", tmp_path / f"out.{suffix}"
    ffmpeg(
        "-f", "lavfi", "-i", f"testsrc2=s=32x32:r={rate}:d=2", "-c:v", "libx264", "-g", "5", "-timecode", given, source
    )
    assert read_back(probe, source) == given
    summary = restore(source, target, REPEATER, encoding=Encoding(preset="ultrafast"), **options)
    assert read_back(probe, target) == expected
    assert not any("time code" in note or "data stream" in note for note in summary.notes)


def test_an_mpeg_2_video_has_its_own(ffmpeg: Ffmpeg, probe: Probe, tmp_path: Path) -> None:
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc2=s=32x32:d=0.4",
        "-c:v",
        "mpeg2video",
        "-timecode",
        "10:20:30:05",
        tmp_path / "a.ts",
    )
    restore(tmp_path / "a.ts", tmp_path / "out.mp4", REPEATER)
    assert read_back(probe, tmp_path / "out.mp4") == "10:20:30:10"


def test_one_that_means_nothing_is_noted(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32:d=0.4", "-metadata", "timecode=noon", tmp_path / "a.mkv")
    summary = restore(tmp_path / "a.mkv", tmp_path / "out.mkv", REPEATER)
    assert any("the time code 'noon' is left out" in note for note in summary.notes)


@given(st.integers(0, 24 * 3600 * 30 - 24 * 6 * 18 * 9 - 1))
def test_drop_frame_codes_count_every_frame_once(number: int) -> None:
    """At 30000/1001 the codes of a day skip two numbers a minute, but not in each tenth minute."""
    code = timecode.move("00:00:00;00", NTSC, number / NTSC, NTSC)
    assert code is not None
    hours, minute, second, frame = (int(part) for part in code.replace(";", ":").split(":"))
    assert not (second == 0 and frame < 2 and minute % 10)
    counted = (
        ((hours * 60 + minute) * 60 + second) * 30 + frame - 2 * ((hours * 60 + minute) - (hours * 60 + minute) // 10)
    )
    assert counted == number
