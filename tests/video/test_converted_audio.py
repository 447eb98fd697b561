"""Converted audio follows the source's clock, layout and rate."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.video.conftest import REPEATER

from zsm.runtime.video import Encoding, Options, open_source, restore_source

Ffmpeg = Callable[..., bytes]
Probe = Callable[..., Any]

BEEPS = (
    "aevalsrc='0.5*sin(2*PI*1000*t)*between(mod(t,0.5),0.25,0.35)':s={rate}:d={length},aformat=channel_layouts={layout}"
)
"""A beep of 0.1 s in each half second."""
TOLERANCE = {"double": 0.01, "slow": 0.02}
"""Half a frame of the output, in seconds."""


def run(source: Path, target: Path, fps_mode: str = "double") -> None:
    encoding = Encoding(preset="8") if target.suffix == ".webm" else Encoding(preset="ultrafast")
    with closing(open_source(source)) as opened:
        restore_source(opened, target, REPEATER, Options(encoding=encoding, fps_mode=fps_mode))  # type: ignore[arg-type]


def beeps(ffmpeg: Ffmpeg, probe: Probe, path: Path) -> list[float]:
    """The middle of each beep, in seconds after the first picture. (Slower sound has blurred edges.)"""
    samples = sound(ffmpeg, path)
    loud = np.flatnonzero(np.abs(samples) > 0.1) / 48000
    packets = probe(path, "-select_streams", "v:0", "-show_entries", "packet=pts_time")["packets"]
    first = min(float(packet["pts_time"]) for packet in packets)
    groups = np.split(loud, np.flatnonzero(np.diff(loud) > 0.05) + 1)
    return [float(group[0] + group[-1]) / 2 - first for group in groups]


def sound(ffmpeg: Ffmpeg, path: Path) -> NDArray[np.float32]:
    """A file's sound from time 0, at 48 kHz, as players play it: packets at their times."""
    raw = ffmpeg("-copyts", "-i", path, "-map", "0:a:0", "-ac", "1", "-af",
                 "aresample=48000:async=1:min_hard_comp=0.002:first_pts=0", "-f", "f32le", "-")  # fmt: skip
    return np.frombuffer(raw, np.float32)


def make(ffmpeg: Ffmpeg, path: Path, codec: str, *, layout: str, rate: int, length: float, offset: float = 0) -> Path:
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=s=32x32:r=25:d={length}", "-f", "lavfi", "-i",
           BEEPS.format(rate=rate, layout=layout, length=length), "-c:v", "libx264", "-preset", "ultrafast",
           "-g", "5", "-c:a", codec, "-muxdelay", "0", "-muxpreload", "0",
           *(["-output_ts_offset", str(offset)] if offset else []), path)  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("first", "second"),
    [(("stereo", 48000), ("5.1", 48000)), (("5.1", 48000), ("mono", 48000)), (("stereo", 44100), ("stereo", 48000)),
     (("mono", 32000), ("5.1", 48000))],
)  # fmt: skip
@pytest.mark.parametrize(("suffix", "mode"), [pytest.param("mp4", "slow", marks=pytest.mark.slow), ("mkv", "slow"),
                                              pytest.param("webm", "double", marks=pytest.mark.slow)])  # fmt: skip
def test_layout_and_rate_may_change(
    ffmpeg: Ffmpeg, probe: Probe, tmp_path: Path, first: Any, second: Any, suffix: str, mode: str
) -> None:
    parts = [
        make(ffmpeg, tmp_path / f"{number}.ts", "ac3", layout=layout, rate=rate, length=1, offset=number)
        for number, (layout, rate) in enumerate((first, second))
    ]
    source, target = tmp_path / "in.ts", tmp_path / f"out.{suffix}"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    run(source, target, mode)
    stretch = 2 if mode == "slow" else 1
    found = beeps(ffmpeg, probe, target)
    assert found == pytest.approx([time * stretch for time in (0.3, 0.8, 1.3, 1.8)], abs=TOLERANCE[mode])


@pytest.mark.parametrize(("codec", "given"), [("ac3", "mkv"), ("mp2", "ts"), ("libmp3lame", "mkv"),
                                              pytest.param("pcm_s16le", "mkv", marks=pytest.mark.slow)])  # fmt: skip
@pytest.mark.parametrize(("suffix", "mode"), [pytest.param("mp4", "double", marks=pytest.mark.slow), ("mp4", "slow"),
                                              pytest.param("webm", "double", marks=pytest.mark.slow)])  # fmt: skip
def test_gaps_are_filled_with_silence(
    ffmpeg: Ffmpeg, probe: Probe, tmp_path: Path, codec: str, given: str, suffix: str, mode: str
) -> None:
    """Packets are missing in three places; the beeps after them stay where they were."""
    whole = make(ffmpeg, tmp_path / f"whole.{given}", codec, layout="stereo", rate=48000, length=3)
    source, target = tmp_path / f"in.{given}", tmp_path / f"out.{suffix}"
    drop = "between(pts*tb\\,0.1\\,0.2)+between(pts*tb\\,1.05\\,1.2)+between(pts*tb\\,1.95\\,2)"
    ffmpeg("-i", whole, "-c", "copy", "-bsf:a", f"noise=drop='{drop}'", "-muxdelay", "0", "-muxpreload", "0", source)
    assert len(probe(source, "-select_streams", "a", "-show_packets")["packets"]) < len(
        probe(whole, "-select_streams", "a", "-show_packets")["packets"]
    )
    run(source, target, mode)
    stretch = 2 if mode == "slow" else 1
    expected, found = (beeps(ffmpeg, probe, path) for path in (source, target))
    assert len(expected) == 6
    assert found == pytest.approx([time * stretch for time in expected], abs=TOLERANCE[mode])
