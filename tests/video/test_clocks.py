"""Clocks that begin anywhere, begin anew, jump or are wrong in places."""

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.video.conftest import REPEATER

from zsm.runtime.video import Encoding, restore
from zsm.runtime.video.clock import Clock

Ffmpeg = Callable[..., bytes]
Probe = Callable[..., Any]
Times = Callable[[Path], list[float]]

FAST = Encoding(preset="ultrafast")
CODECS = {
    "ts": ("-c:v", "libx264", "-bf", "2", "-c:a", "mp2"),
    "vob": ("-c:v", "mpeg2video", "-bf", "2", "-c:a", "ac3"),
    "flv": ("-c:v", "libx264", "-c:a", "aac"),
    "mkv": ("-c:v", "libx264", "-c:a", "flac"),
    "mp4": ("-c:v", "libx264", "-c:a", "aac"),
    "wmv": ("-c:v", "wmv2", "-c:a", "wmav2"),
}
BEEP = "aevalsrc='0.5*sin(2*PI*1000*t)*between(t,0.4,0.5)':s=48000:d=0.8"


def recording(ffmpeg: Ffmpeg, path: Path, *, begin: float = 0, sound: bool = True) -> bytes:
    """0.8 s at 25 frames per second, with a beep from 0.4 to 0.5 s and a white frame at the same time."""
    flash = "testsrc2=s=64x48:r=25:d=0.8,drawbox=t=fill:c=white:enable='between(t,0.4,0.43)'"
    codecs = CODECS[path.suffix[1:]]
    inputs = ["-f", "lavfi", "-i", flash, *(["-f", "lavfi", "-i", BEEP] if sound else [])]
    ffmpeg(*inputs, *codecs[: None if sound else -2], "-output_ts_offset", str(begin), path)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("begin", [1200, pytest.param(95440, marks=pytest.mark.slow)])
def test_any_start_becomes_zero(
    ffmpeg: Ffmpeg, probe: Probe, video_times: Times, tmp_path: Path, suffix: str, begin: float
) -> None:
    source, target = tmp_path / f"in.{suffix}", tmp_path / "out.mp4"
    recording(ffmpeg, source, begin=begin)
    restore(source, target, REPEATER, encoding=FAST)
    assert 0 <= video_times(target)[0] < 0.1
    assert float(probe(target)["format"]["duration"]) == pytest.approx(0.8, abs=0.15)


@pytest.mark.parametrize("suffix", ["ts", pytest.param("vob", marks=pytest.mark.slow)])
@pytest.mark.parametrize("begins", [(0, 0), (0, 3000), (3000, 0), (0, 0, 0), (100, 95440, 20)])
@pytest.mark.parametrize("sound", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_joined_recordings_play_one_after_the_other(
    ffmpeg: Ffmpeg, video_times: Times, tmp_path: Path, suffix: str, begins: tuple[float, ...], sound: bool
) -> None:
    parts = [
        recording(ffmpeg, tmp_path / f"{number}.{suffix}", begin=begin, sound=sound)
        for number, begin in enumerate(begins)
    ]
    source, target = tmp_path / f"in.{suffix}", tmp_path / "out.mkv"
    source.write_bytes(b"".join(parts))
    summary = restore(source, target, REPEATER, encoding=FAST)
    assert any("the clock jumps" in note for note in summary.notes)
    assert not any("did not increase" in note for note in summary.notes)
    times = video_times(target)
    gaps = [b - a for a, b in pairwise(times)]
    assert min(gaps) > 0.018
    assert max(gaps) < 0.1  # a recording's last frames may be missing
    if sound:
        flashes, beeps = events(ffmpeg, target, times)
        assert len(flashes) == len(beeps) == len(begins)
        assert beeps == pytest.approx(flashes, abs=0.045)  # audio frames of 24 to 32 ms that overlap are cut


def events(ffmpeg: Ffmpeg, path: Path, times: list[float]) -> tuple[list[float], list[float]]:
    """When white frames and beeps begin."""
    raw = ffmpeg("-i", path, "-fps_mode", "passthrough", "-pix_fmt", "gray", "-f", "rawvideo", "-")
    means = np.frombuffer(raw, np.uint8).reshape(-1, 192 * 256).mean(axis=1)
    white = [time for time, mean in zip(times, means, strict=True) if mean > 225]
    audio = ffmpeg(
        "-i", path, "-map", "0:a:0", "-ac", "1", "-af", "aresample=48000:async=1:first_pts=0", "-f", "f32le", "-"
    )
    loud = np.flatnonzero(np.abs(np.frombuffer(audio, np.float32)) > 0.1) / 48000
    return firsts(white), firsts(list(loud))


def firsts(times: list[float]) -> list[float]:
    return [time for time, before in zip(times, [-1.0, *times], strict=False) if time - before > 0.3]


STEP, TICK = Fraction(1, 25), Fraction(1, 90000)


def place(stamps: list[Fraction | None], *, jumps_ahead: bool = True) -> tuple[list[Fraction], Clock]:
    clock = Clock(jumps_ahead=jumps_ahead)
    return [clock.place(stamp, STEP, TICK) for stamp in stamps], clock


@given(st.lists(st.tuples(st.integers(-(10**6), 10**6), st.integers(5, 30)), min_size=1, max_size=6))
@settings(max_examples=200)
def test_recordings_of_any_clocks_become_one_at_a_steady_rate(parts: list[tuple[int, int]]) -> None:
    stamps: list[Fraction | None] = [
        Fraction(begin, 10) + number * STEP for begin, length in parts for number in range(length)
    ]
    assert all(b > a for a, b in pairwise(place(stamps)[0]))
    jumping = [stamp for stamp in stamps if stamp is not None]
    steps = [b - a for a, b in pairwise(jumping)]
    if all(step == STEP or step > 10 or step <= -3 * STEP for step in steps):  # others are gaps, or inexact
        assert {b - a for a, b in pairwise(place(stamps)[0])} <= {STEP}


@given(st.integers(2, 20), st.fractions(-1000, 1000, max_denominator=90000))
def test_one_wrong_stamp_moves_no_other_frame(where: int, wrong: Fraction) -> None:
    right = [number * STEP for number in range(25)]
    stamps: list[Fraction | None] = [*right[:where], wrong, *right[where + 1 :]]
    times, clock = place(stamps)
    assert all(b > a for a, b in pairwise(times))
    within = right[where - 1] < wrong < right[where + 1]
    if not within and not right[where + 1] <= wrong <= right[where - 1] + 10:
        assert [*times[:where], *times[where + 1 :]] == [*right[:where], *right[where + 1 :]]
        assert clock.offsets == [0]
        assert clock.corrected == 1


def test_gaps_of_other_formats_are_kept_however_long() -> None:
    times, clock = place([Fraction(0), Fraction(3600), Fraction(7200)], jumps_ahead=False)
    assert times == [0, 3600, 7200]
    assert clock.offsets == [0]


def test_frames_without_stamps_follow_at_the_usual_distance() -> None:
    assert place([None, None, Fraction(1), None])[0] == [0, STEP, 1, 1 + STEP]
