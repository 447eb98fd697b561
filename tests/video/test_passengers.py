"""Audio of every kind into every container: copied, converted, or left out with a note, and decided first."""

from collections.abc import Callable, Iterator
from contextlib import closing
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.video.conftest import REPEATER

from zsm.errors import VideoError
from zsm.runtime.video import Encoding, Excerpt, Options, Summary, open_source, passengers, restore_source
from zsm.runtime.video.passengers import CopiedTrack

Ffmpeg = Callable[..., bytes]
Probe = Callable[..., Any]

SOURCES = [
    # encoder, container, layout, rate
    ("pcm_s16le", "avi", "stereo", 44100),
    ("pcm_u8", "avi", "mono", 11025),
    ("pcm_s24le", "mkv", "stereo", 48000),
    ("pcm_s24le", "mkv", "5.1", 96000),
    ("pcm_s16be", "mov", "stereo", 48000),
    ("pcm_f32le", "mkv", "stereo", 192000),
    ("pcm_mulaw", "mov", "mono", 8000),
    ("pcm_alaw", "avi", "mono", 8000),
    ("adpcm_ms", "avi", "stereo", 22050),
    ("adpcm_ima_wav", "avi", "mono", 22050),
    ("wmav1", "wmv", "stereo", 44100),
    ("wmav2", "wmv", "mono", 16000),
    ("ac3", "ts", "5.1(side)", 48000),
    ("eac3", "mkv", "5.1(side)", 48000),
    ("dca", "mkv", "5.1(side)", 48000),
    ("truehd", "mkv", "5.1(side)", 48000),
    ("libopus", "mkv", "5.1", 48000),
    ("libopus", "webm", "mono", 48000),
    ("libvorbis", "mkv", "stereo", 44100),
    ("flac", "mkv", "7.1", 48000),
    ("flac", "mkv", "quad", 44100),
    ("libmp3lame", "avi", "stereo", 32000),
    ("mp2", "ts", "stereo", 48000),
    ("aac", "flv", "stereo", 44100),
    ("aac", "mp4", "5.1", 48000),
    ("alac", "mov", "stereo", 44100),
]
CONTAINERS = ("mp4", "mkv", "mov", "webm")
EVERYDAY = {"pcm_s16le", "truehd"}
CELLS = [
    pytest.param(
        source, suffix, mode, id=f"{'-'.join(map(str, source))}-{suffix}-{mode}",
        marks=[] if source[0] in EVERYDAY and (mode == "double") == (suffix != "webm") else pytest.mark.slow,
    )
    for source, suffix, mode in product(SOURCES, CONTAINERS, ("double", "slow"))
]  # fmt: skip


def run(source: Path, target: Path, **options: Any) -> Summary:
    encoding = Encoding(preset="8") if target.suffix == ".webm" else Encoding(preset="ultrafast")
    with closing(open_source(source)) as opened:
        return restore_source(opened, target, REPEATER, Options(**{"encoding": encoding, **options}))


@pytest.fixture(scope="module")
def film(ffmpeg: Ffmpeg, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a film of 0.3 s with the sound of a source; once for all its outputs."""
    folder = tmp_path_factory.mktemp("films")

    def make(encoder: str, suffix: str, layout: str, rate: int) -> Path:
        path = folder / f"{encoder}-{layout}-{rate}.{suffix}"
        if not path.exists():
            video = {"wmv": "wmv2", "avi": "mpeg4", "flv": "flv", "webm": "libvpx"}.get(suffix, "libx264")
            ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32:r=25:d=0.3", "-f", "lavfi", "-i",
                   f"sine=440:d=0.3:r={rate},aformat=channel_layouts={layout}", "-c:v", video,
                   "-strict", "-2", "-c:a", encoder, path)  # fmt: skip
        return path

    return make


def test_the_matrix_is_as_large_as_promised() -> None:
    assert len(CELLS) >= 96


@pytest.mark.parametrize(("source", "suffix", "mode"), CELLS)
def test_sound_of_every_kind_arrives(
    ffmpeg: Ffmpeg, probe: Probe, film: Callable[..., Path], tmp_path: Path, source: Any, suffix: str, mode: str
) -> None:
    given, target = film(*source), tmp_path / f"out.{suffix}"
    notes = run(given, target, fps_mode=mode).notes
    (before,) = (stream for stream in probe(given)["streams"] if stream["codec_type"] == "audio")
    assert ffmpeg("-i", target, "-f", "null", "-") == b""
    kept = [stream for stream in probe(target)["streams"] if stream["codec_type"] == "audio"]
    if source[0] == "truehd" and not kept:  # FFmpeg 8 can't decode what older encoders made of several channels
        assert any("left out: it can't be decoded" in note for note in notes)
        return
    (after,) = kept
    assert after["channels"] == before["channels"]
    converted = [note for note in notes if note.startswith("audio stream") and "is converted to" in note]
    if mode == "slow" or not converted:
        assert bool(converted) == (mode == "slow")
    if converted:
        assert after["codec_name"] == ("opus" if suffix == "webm" else "aac")
    else:
        # ffprobe calls both by the code that MP4 has for the two of them.
        alike = {"mp2": "mp3"} if suffix == "mp4" else {}
        assert after["codec_name"] == alike.get(before["codec_name"], before["codec_name"])
        assert after["sample_rate"] == before["sample_rate"]
    stretch = 2 if mode == "slow" else 1
    found, expected = (sound(ffmpeg, path) for path in (target, given))
    assert len(found) / 48000 == pytest.approx(len(expected) / 48000 * stretch, abs=0.08 * stretch)
    middle = found[4800:12000]
    assert np.abs(middle).max() > 0.01
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * 48000 / len(middle) == pytest.approx(440, abs=20)


def sound(ffmpeg: Ffmpeg, path: Path) -> NDArray[np.float32]:
    """A file's sound in mono at 48 kHz."""
    return np.frombuffer(
        ffmpeg("-i", path, "-map", "0:a:0", "-ac", "1", "-ar", "48000", "-f", "f32le", "-"), np.float32
    )


def test_sound_that_is_announced_and_never_comes_is_left_out(ffmpeg: Ffmpeg, probe: Probe, tmp_path: Path) -> None:
    whole, ghost = tmp_path / "whole.ts", tmp_path / "ghost.ts"
    sine = ("-f", "lavfi", "-i", "sine=d=0.4")
    for codec in ("ac3", "mp2"):
        ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32:r=25:d=0.4", *sine, *sine, "-map", "0", "-map", "1", "-map", "2",
               "-c:v", "libx264", "-c:a", codec, whole)  # fmt: skip
        data = whole.read_bytes()
        packets = [data[begin : begin + 188] for begin in range(0, len(data), 188)]
        ghost.write_bytes(b"".join(p for p in packets if ((p[1] & 31) << 8 | p[2]) != 0x102))
        for suffix, mode in product(CONTAINERS, ("double", "slow")):
            target = tmp_path / f"{codec}-{mode}.{suffix}"
            notes = run(ghost, target, fps_mode=mode).notes
            assert [s["codec_type"] for s in probe(target)["streams"]] == ["video", "audio"]
            assert any("audio stream 2" in note and "left out" in note for note in notes)


@pytest.mark.parametrize("codec", ["ac3", "eac3", "aac"])
def test_an_excerpt_without_sound_is_written(ffmpeg: Ffmpeg, probe: Probe, tmp_path: Path, codec: str) -> None:
    """MP4 can't describe AC-3 without a packet of it."""
    source, target = tmp_path / "in.mkv", tmp_path / "out.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32:r=25:d=2", "-f", "lavfi", "-i", "sine=d=0.5",
           "-c:v", "libx264", "-g", "5", "-c:a", codec, source)  # fmt: skip
    notes = run(source, target, excerpt=Excerpt(start=Fraction(1)), fps_mode="keep").notes
    assert [s["codec_type"] for s in probe(target)["streams"]] == ["video"]
    assert any("audio stream 1" in note and "chosen part" in note for note in notes)


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize("given", ["mp4", pytest.param("mkv", marks=pytest.mark.slow)])
@pytest.mark.parametrize("picture", ["jpg", pytest.param("png", marks=pytest.mark.slow)])
def test_covers_are_kept_or_noted(
    ffmpeg: Ffmpeg, probe: Probe, tmp_path: Path, given: str, suffix: str, picture: str
) -> None:
    cover, plain, source = tmp_path / f"cover.{picture}", tmp_path / "plain.mp4", tmp_path / f"in.{given}"
    target = tmp_path / f"out.{suffix}"
    ffmpeg("-f", "lavfi", "-i", "color=red:s=40x24", "-frames:v", "1", cover)
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32:r=25:d=0.3", "-c:v", "libx264", plain)
    if given == "mp4":
        ffmpeg("-i", plain, "-i", cover, "-map", "0", "-map", "1", "-c", "copy", "-disposition:v:1", "attached_pic",
               source)  # fmt: skip
    else:
        kind = {"jpg": "jpeg", "png": "png"}[picture]
        ffmpeg("-i", plain, "-c", "copy", "-attach", cover, "-metadata:s:t", f"mimetype=image/{kind}", source)
    notes = run(source, target).notes
    found = [s for s in probe(target)["streams"] if s["disposition"]["attached_pic"]]
    if suffix in ("mp4", "mkv"):
        assert [(s["width"], s["height"]) for s in found] == [(40, 24)]
        assert notes == []
    else:
        assert bool(found) != any("cover picture" in note for note in notes)


def test_what_was_restored_is_kept_if_the_rest_cannot_be_added(
    ffmpeg: Ffmpeg, probe: Probe, film: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = film("aac", "mp4", "5.1", 48000), tmp_path / "out.mp4"

    made = []

    class Fragile(CopiedTrack):
        """Right when it is tried, wrong when it matters."""

        def __init__(self, *values: Any) -> None:
            super().__init__(*values)
            made.append(self)

        def take(self, packet: Any) -> Iterator[Any]:
            for copied in super().take(packet):
                copied.dts += 1000 if self is not made[0] else 0
                yield copied

    monkeypatch.setattr(passengers, "CopiedTrack", Fragile)
    with pytest.raises(VideoError, match=r"video\.mkv"):
        run(source, target)
    assert not target.exists()
    rescued = tmp_path / ".out.mp4.zsm" / "video.mkv"
    frames = probe(rescued, "-count_frames", "-show_streams")["streams"][0]
    assert int(frames["nb_read_frames"]) == 15
    monkeypatch.undo()
    run(source, target, resume=True)
    assert [s["codec_type"] for s in probe(target)["streams"]] == ["video", "audio"]
    assert list(tmp_path.iterdir()) == [target]
