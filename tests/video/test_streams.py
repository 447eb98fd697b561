"""Containers, streams and times: written by ffmpeg, restored here, read back with ffprobe."""

import gc
import io
import re
import weakref
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any

import av
import pytest
from tests.video.conftest import REPEATER

from zsm.errors import ArgumentError, VideoError
from zsm.runtime.video import (
    Encoding,
    Excerpt,
    Options,
    Summary,
    open_source,
    read_frames,
    restore,
    restore_source,
)
from zsm.runtime.video.encoders import Plan

Ffmpeg = Callable[..., bytes]
Probe = Callable[..., Any]
Times = Callable[[Path], list[float]]

FAST = Encoding(preset="ultrafast")


def run(source: Path, target: Path, **options: Any) -> Summary:
    options = {"encoding": Encoding() if target.suffix == ".webm" else FAST, **options}
    with closing(open_source(source)) as opened:
        return restore_source(opened, target, REPEATER, Options(**options))


@pytest.fixture(scope="module")
def film(ffmpeg: Ffmpeg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of video with two audio streams, subtitles, chapters, a title and an attachment."""
    folder = tmp_path_factory.mktemp("film")
    (folder / "s.srt").write_text("1\n00:00:00,200 --> 00:00:00,700\nhello\n\n2\n00:00:01,000 --> 00:00:01,500\nyou\n")
    (folder / "meta.txt").write_text(
        ";FFMETADATA1\ntitle=A Film\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=1000\ntitle=One\n"
        "[CHAPTER]\nTIMEBASE=1/1000\nSTART=1000\nEND=2000\ntitle=Two\n"
    )
    (folder / "note.txt").write_text("attached")
    film = folder / "film.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=2", "-f", "lavfi", "-i", "sine=440:d=2",
           "-f", "lavfi", "-i", "sine=880:d=2", "-i", folder / "s.srt", "-i", folder / "meta.txt",
           "-map", "0", "-map", "1", "-map", "2", "-map", "3", "-map_metadata", "4", "-map_chapters", "4",
           "-c:v", "libx264", "-bf", "2", "-c:a:0", "aac", "-c:a:1", "flac", "-c:s", "srt",
           "-metadata:s:a:1", "language=deu", "-disposition:a:1", "default",
           "-attach", folder / "note.txt", "-metadata:s:t", "mimetype=text/plain", film)  # fmt: skip
    return film


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "webm", "avi", "ts"])
def test_every_container_is_read(ffmpeg: Ffmpeg, probe: Probe, tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"in.{suffix}"
    codecs = {"webm": ("libvpx-vp9", "libopus"), "avi": ("mpeg4", "mp3")}.get(suffix, ("libx264", "aac"))
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32:r=25:d=1", "-f", "lavfi", "-i", "sine=d=1",
           "-c:v", codecs[0], "-c:a", codecs[1], source)  # fmt: skip
    summary = run(source, tmp_path / "out.mkv")
    assert (summary.frames_in, summary.frames_out) == (25, 49)
    kinds = [stream["codec_type"] for stream in probe(tmp_path / "out.mkv")["streams"]]
    assert kinds == ["video", "audio"]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "webm"])
def test_every_container_is_written(
    ffmpeg: Ffmpeg, probe: Probe, video_times: Times, film: Path, tmp_path: Path, suffix: str
) -> None:
    target = tmp_path / f"out.{suffix}"
    summary = run(film, target)
    found = probe(target)
    video = found["streams"][0]
    assert (video["width"], video["height"]) == (256, 192)
    assert video["r_frame_rate"] == "50/1"
    assert len(video_times(target)) == summary.frames_out == 99
    assert [stream["codec_type"] for stream in found["streams"]].count("audio") == 2
    assert [chapter["tags"]["title"] for chapter in found["chapters"]] == ["One", "Two"]
    assert [float(chapter["start_time"]) for chapter in found["chapters"]] == [0, 1]
    assert found["format"]["tags"]["title"] == "A Film"
    assert ffmpeg("-i", target, "-f", "null", "-") == b""
    assert list(tmp_path.iterdir()) == [target]


def test_matroska_keeps_everything(probe: Probe, ffmpeg: Ffmpeg, film: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mkv"
    assert run(film, target).notes == []
    streams = probe(target)["streams"]
    assert [stream["codec_name"] for stream in streams[1:4]] == ["aac", "flac", "subrip"]
    assert streams[2]["tags"]["language"] == "deu"
    assert streams[2]["disposition"]["default"] == 1
    assert streams[4]["tags"]["filename"] == "note.txt"

    def audio(path: Path) -> bytes:
        return ffmpeg("-i", path, "-map", "0:a", "-c", "copy", "-f", "framemd5", "-")

    def payloads(path: Path) -> list[bytes]:
        return [line.rsplit(b",")[-1] for line in audio(path).splitlines() if not line.startswith(b"#")]

    assert payloads(target) == payloads(film)


def test_what_a_container_cannot_hold_is_told(film: Path, probe: Probe, tmp_path: Path) -> None:
    notes = run(film, tmp_path / "out.webm").notes
    assert len([note for note in notes if "is converted to libopus" in note]) == 2
    assert any(note.startswith("subtitle stream 3") and "left out" in note for note in notes)
    assert any(note.startswith("attachment stream 4") and "left out" in note for note in notes)
    assert [s["codec_name"] for s in probe(tmp_path / "out.webm")["streams"]] == ["vp9", "opus", "opus"]


@pytest.mark.parametrize(
    ("codec", "suffix", "name"),
    [("h264", "mp4", "h264"), ("hevc", "mp4", "hevc"), ("av1", "mkv", "av1"), ("vp9", "webm", "vp9"),
     ("prores", "mov", "prores"), ("ffv1", "mkv", "ffv1"), ("libx264rgb", "mkv", "h264")],
)  # fmt: skip
def test_every_codec_is_written(
    ffmpeg: Ffmpeg, probe: Probe, film: Path, tmp_path: Path, codec: str, suffix: str, name: str
) -> None:
    target = tmp_path / f"out.{suffix}"
    run(film, target, encoding=Encoding(codec=codec), excerpt=Excerpt(frames=6), segment=4)
    assert probe(target)["streams"][0]["codec_name"] == name
    frames = probe(target, "-count_frames", "-select_streams", "v", "-show_streams")["streams"][0]
    assert frames["nb_read_frames"] == "11"


def test_decoding_times_do_not_come_from_the_encoder(
    probe: Probe, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of very short clips, x265 gives what its memory held; here, always times after the presentation."""

    class Late:
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        def encode(self, frame: Any) -> list[Any]:
            packets: list[Any] = self._stream.encode(frame)
            for packet in packets:
                packet.dts = packet.pts + 1000
            return packets

    opened = Plan.open
    monkeypatch.setattr(Plan, "open", lambda plan, container: Late(opened(plan, container)))
    target = tmp_path / "out.mp4"
    run(film, target, encoding=Encoding(codec="hevc"), excerpt=Excerpt(frames=6), segment=4)
    packets = probe(target, "-select_streams", "v:0", "-show_entries", "packet=pts,dts")["packets"]
    shown, decoded = ([packet[stamp] for packet in packets] for stamp in ("pts", "dts"))
    assert len(shown) == 11
    assert shown != sorted(shown)
    assert all(before < after for before, after in pairwise(decoded))
    assert all(early <= late for early, late in zip(decoded, shown, strict=True))


def test_encoder_settings_arrive(film: Path, tmp_path: Path) -> None:
    best, worst = (tmp_path / name for name in ("best.mkv", "worst.mkv"))
    run(film, best, encoding=Encoding(crf=5, preset="ultrafast"))
    run(film, worst, encoding=Encoding(crf=45, preset="ultrafast"))
    assert best.stat().st_size > 2 * worst.stat().st_size


@pytest.mark.parametrize(
    ("encoding", "message"),
    [({"codec": "nosuch"}, "there is no encoder 'nosuch'"),
     ({"codec": "aac"}, "there is no encoder 'aac' for video files"),
     ({"codec": "rawvideo"}, "there is no encoder 'rawvideo' for video files"),
     ({"pix_fmt": "nosuch"}, "there is no pixel format 'nosuch'"),
     ({"pix_fmt": "yuva420p"}, "isn't supported"),
     ({"pix_fmt": "cuda"}, "isn't supported"),
     ({"codec": "h264", "pix_fmt": "yuv420p12le"}, "libx264 can't write yuv420p12le"),
     ({"codec": "ffv1", "hardware": True}, "no hardware encoder for ffv1 is known; leave out --hardware"),
     ({"codec": "libx264", "hardware": True}, "no hardware encoder for libx264 is known; leave out --hardware"),
     ({"preset": "nosuch"}, "libx264 can't write 256x192"),
     ({"codec": "prores", "crf": 20}, "prores_ks has no option crf"),
     ({"codec": "ffv1", "crf": 20, "preset": "fast"}, "ffv1 has no option crf, preset")],
)  # fmt: skip
def test_invalid_encodings_are_rejected(film: Path, tmp_path: Path, encoding: dict[str, Any], message: str) -> None:
    # FFmpeg alone knows an encoder's presets.
    with pytest.raises(VideoError if encoding == {"preset": "nosuch"} else ArgumentError, match=message):
        run(film, tmp_path / "out.mkv", encoding=Encoding(**encoding))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("codec", "suffix"), [("h264", ".webm"), ("prores", ".mp4")])
def test_a_codec_that_the_container_cannot_hold_is_rejected_first(
    film: Path, tmp_path: Path, codec: str, suffix: str
) -> None:
    with pytest.raises(VideoError, match=r"can't hold|can't write"):
        run(film, tmp_path / f"out{suffix}", encoding=Encoding(codec=codec))
    assert list(tmp_path.iterdir()) == []


def test_variable_frame_rate_is_kept(ffmpeg: Ffmpeg, video_times: Times, tmp_path: Path) -> None:
    source = tmp_path / "vfr.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32:r=50:d=2", "-vf", "select='not(mod(n,7))+not(mod(n,3))'",
           "-fps_mode", "vfr", "-c:v", "libx264", "-bf", "3", source)  # fmt: skip
    given = video_times(source)
    assert len({round(b - a, 3) for a, b in pairwise(given)}) > 1
    run(source, tmp_path / "out.mp4", segment=11)
    found = video_times(tmp_path / "out.mp4")
    assert found[::2] == pytest.approx(given, abs=1e-4)
    assert found[1::2] == pytest.approx([(a + b) / 2 for a, b in pairwise(given)], abs=1e-4)


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "h264"), ("webm", "vp9")])
def test_the_average_rate_of_a_long_video_may_be_any_fraction(
    ffmpeg: Ffmpeg, probe: Probe, tmp_path: Path, suffix: str, codec: str
) -> None:
    """As of telephones: the numerator of 15013 frames' average is 15013 * 90000, and twice that no 32-bit number."""
    still, source, target = tmp_path / "still.mp4", tmp_path / "long.mp4", tmp_path / f"out.{suffix}"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32", "-frames:v", "1", "-c:v", "libx264", still)
    with av.open(str(still)) as given, av.open(str(source), "w", options={"video_track_timescale": "90000"}) as long:
        stream = long.add_stream_from_template(given.streams.video[0], opaque=True)
        picture = bytes(next(given.demux(given.streams.video[0])))
        durations = [3001 + number % 2 for number in range(15012)] + [3001]
        for time, duration in zip(accumulate(durations, initial=0), durations, strict=False):
            packet = av.Packet(picture)
            packet.pts = packet.dts = time
            packet.duration, packet.time_base, packet.is_keyframe = duration, Fraction(1, 90000), True
            packet.stream = stream
            long.mux(packet)
    rate = Fraction(probe(source)["streams"][0]["avg_frame_rate"])
    assert 2 * rate.numerator > 2**31
    run(source, target, encoding=Encoding(codec=codec), excerpt=Excerpt(frames=4))
    assert len(list(read_frames(target))) == 7
    pipe = io.BytesIO()
    restore_source(open_source(source), pipe, REPEATER, Options(excerpt=Excerpt(frames=2)))
    written = re.search(rb" F(\d+):(\d+) ", pipe.getvalue())
    assert written
    assert float(Fraction(int(written[1]), int(written[2])) / rate) == pytest.approx(2, abs=1e-12)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_start_offset_is_kept(ffmpeg: Ffmpeg, probe: Probe, tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"late.{suffix}"
    ffmpeg("-f", "lavfi", "-i", "sine=d=2", "-f", "lavfi", "-i", "testsrc2=s=32x32:d=1", "-vf", "setpts=PTS+0.5/TB",
           "-map", "1:v", "-map", "0:a", "-c:a", "flac", "-c:v", "libx264", "-strict", "-2", source)  # fmt: skip
    run(source, tmp_path / f"out.{suffix}")
    given, found = (probe(path)["streams"] for path in (source, tmp_path / f"out.{suffix}"))
    for before, after in zip(given, found, strict=True):
        assert float(after["start_time"]) == pytest.approx(float(before["start_time"]), abs=0.002)
    assert float(found[0]["start_time"]) == pytest.approx(0.5, abs=0.1)


def test_double_lasts_as_long_and_slow_twice_as_long(film: Path, probe: Probe, tmp_path: Path) -> None:
    lengths = {}
    for mode in ("double", "slow", "keep"):
        target = tmp_path / f"{mode}.mp4"
        summary = run(film, target, fps_mode=mode)
        lengths[mode] = [float(stream["duration"]) for stream in probe(target)["streams"]][:2]
        assert any("pitch kept" in note for note in summary.notes) == (mode == "slow")
    assert lengths["double"] == lengths["keep"] == pytest.approx([2, 2], abs=0.05)
    assert lengths["slow"] == pytest.approx([4, 4], abs=0.1)


def test_slow_keeps_the_pitch(film: Path, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    import numpy as np

    run(film, tmp_path / "slow.mp4", fps_mode="slow")
    raw = ffmpeg("-i", tmp_path / "slow.mp4", "-map", "0:a:0", "-ac", "1", "-ar", "48000", "-f", "f32le", "-")
    samples = np.frombuffer(raw, np.float32)[24000:120000]
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    assert np.argmax(spectrum) * 48000 / len(samples) == pytest.approx(440, abs=2)


def test_subtitles_and_chapters_are_slowed_too(film: Path, probe: Probe, tmp_path: Path) -> None:
    run(film, tmp_path / "slow.mkv", fps_mode="slow")
    shift = float(probe(tmp_path / "slow.mkv")["streams"][0]["start_time"]) - 2 * float(
        probe(film)["streams"][0]["start_time"]
    )
    packets = probe(tmp_path / "slow.mkv", "-select_streams", "s", "-show_packets")["packets"]
    offset = 2 * float(probe(film, "-select_streams", "s", "-show_packets")["packets"][0]["pts_time"])
    assert float(packets[0]["pts_time"]) == pytest.approx(offset + shift, abs=0.003)
    assert float(packets[0]["duration_time"]) == pytest.approx(1, abs=0.003)
    assert [float(c["end_time"]) for c in probe(tmp_path / "slow.mkv")["chapters"]] == [2, 4]


def test_rotation_and_aspect(ffmpeg: Ffmpeg, probe: Probe, decode: Callable[..., Any], tmp_path: Path) -> None:
    import numpy as np

    plain, turned, out = tmp_path / "plain.mp4", tmp_path / "turned.mp4", tmp_path / "out.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x48:d=0.2", "-vf", "setsar=4/3", "-c:v", "libx264", "-qp", "0",
           "-pix_fmt", "yuv420p", plain)  # fmt: skip
    ffmpeg("-display_rotation", "90", "-i", plain, "-c", "copy", turned) if _has_display_rotation(ffmpeg) else ffmpeg(
        "-i", plain, "-c", "copy", "-metadata:s:v", "rotate=270", turned
    )
    run(turned, out, encoding=Encoding(crf=0, preset="ultrafast"), fps_mode="keep")
    stream = probe(out)["streams"][0]
    assert (stream["width"], stream["height"]) == (192, 256)
    assert stream["sample_aspect_ratio"] == "3:4"
    assert "side_data_list" not in stream
    expected = ffmpeg("-i", turned, "-vf", "scale=iw*4:ih*4:flags=neighbor", "-f", "rawvideo", "-pix_fmt", "gray", "-")
    found = ffmpeg("-i", out, "-f", "rawvideo", "-pix_fmt", "gray", "-")
    a, b = (np.frombuffer(raw, np.uint8).astype(int) for raw in (expected, found))
    assert np.abs(a - b).mean() < 3


def _has_display_rotation(ffmpeg: Ffmpeg) -> bool:
    import subprocess

    text = subprocess.run(["ffmpeg", "-hide_banner", "-h", "full"], capture_output=True, check=True).stdout
    return b"-display_rotation" in text


def test_an_excerpt_begins_at_zero_with_its_sound(film: Path, probe: Probe, video_times: Times, tmp_path: Path) -> None:
    target = tmp_path / "out.mkv"
    summary = run(film, target, excerpt=Excerpt(start=Fraction(1, 2), end=Fraction(3, 2)))
    assert summary.frames_in == 25
    assert video_times(target)[0] == pytest.approx(0, abs=0.03)
    found = probe(target)
    assert float(found["format"]["duration"]) == pytest.approx(1, abs=0.11)
    assert [float(chapter["end_time"]) for chapter in found["chapters"]] == pytest.approx([0.5, 1], abs=0.03)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi", "h264"])
def test_entering_late_gives_the_same_frames(ffmpeg: Ffmpeg, tmp_path: Path, suffix: str) -> None:
    """Whether the file can be entered by its index, or not."""
    source = tmp_path / f"in.{suffix}"
    codec = ["mpeg4", "-qscale", "2"] if suffix == "avi" else ["libx264", "-bf", "3"]
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32:r=25:d=3", "-g", "12", "-c:v", *codec, source)
    lossless = Encoding(codec="ffv1")
    run(source, tmp_path / "all.mkv", encoding=lossless, cuts="off", fps_mode="keep")
    part = Excerpt(start=Fraction(8, 5), frames=20)
    run(source, tmp_path / "part.mkv", encoding=lossless, cuts="off", fps_mode="keep", excerpt=part)
    everything, found = (list(read_frames(tmp_path / name)) for name in ("all.mkv", "part.mkv"))
    assert len(found) == 20
    assert all((a == b).all() for a, b in zip(everything[40:60], found, strict=True))


def test_excerpts_outside_the_file_are_rejected(film: Path, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="lies in the chosen part"):
        run(film, tmp_path / "out.mkv", excerpt=Excerpt(start=Fraction(100)))
    assert list(tmp_path.iterdir()) == []


CHOICES = [
    # (width, codec, disposition) of each video stream, and which of them players choose
    ("mkv", [(32, "mjpeg", "0"), (64, "libx264", "default")], 1),
    ("mkv", [(32, "libx264", "default"), (64, "libx264", "0")], 0),
    ("mkv", [(32, "libx264", "0"), (64, "libx264", "0")], 1),
    ("mkv", [(64, "libx264", "0"), (64, "libx264", "0")], 0),
    ("mp4", [(64, "libx264", "default"), (96, "mjpeg", "attached_pic")], 0),
]


@pytest.mark.parametrize(("suffix", "given", "chosen"), CHOICES)
def test_the_stream_that_players_choose_is_read(
    ffmpeg: Ffmpeg, probe: Probe, tmp_path: Path, suffix: str, given: list[tuple[int, str, str]], chosen: int
) -> None:
    inputs, outputs = [], []
    for index, (width, codec, disposition) in enumerate(given):
        inputs += ["-f", "lavfi", "-t", "0.1" if disposition == "attached_pic" else "0.3"]
        inputs += ["-i", f"testsrc2=s={width}x32:r=10"]
        outputs += ["-map", index, f"-c:v:{index}", codec, f"-disposition:v:{index}", disposition]
        outputs += [f"-metadata:s:v:{index}", f"language={('fre', 'ger')[index]}"]
    source = tmp_path / f"in.{suffix}"
    ffmpeg(*inputs, *outputs, "-strict", "-1", "-pix_fmt", "yuvj420p", source)
    summary = run(source, tmp_path / "out.mp4")
    assert summary.size_in[0] == given[chosen][0]
    assert probe(tmp_path / "out.mp4")["streams"][0]["tags"]["language"] == ("fre", "ger")[chosen]
    for index, (width, _, disposition) in enumerate(given):
        if disposition != "attached_pic":
            asked = restore(source, tmp_path / f"{index}.mp4", REPEATER, encoding=FAST, stream=index)
            assert asked.size_in[0] == width
            assert probe(tmp_path / f"{index}.mp4")["streams"][0]["tags"]["language"] == ("fre", "ger")[index]


def test_a_stream_that_does_not_exist_is_rejected(film: Path, tmp_path: Path) -> None:
    for index in (1, 99, -1):  # 1 is sound
        with pytest.raises(ArgumentError, match=f"no video stream {index}; choose 0"):
            restore(film, tmp_path / "out.mp4", REPEATER, stream=index)
    (tmp_path / "images").mkdir()
    with pytest.raises(ArgumentError, match="leave out --stream"):
        restore(tmp_path / "images", tmp_path / "out.mp4", REPEATER, stream=0)


@pytest.mark.parametrize("rate", ["25", pytest.param("30000/1001", marks=pytest.mark.slow)])
def test_an_hour_stays_in_sync(ffmpeg: Ffmpeg, probe: Probe, tmp_path: Path, rate: str) -> None:
    """One picture in 20 s is enough for times to drift; the last one's is compared."""
    source, target = tmp_path / "hour.mov", tmp_path / "out.mov"
    ffmpeg("-f", "lavfi", "-i", f"color=s=16x16:r={rate}:d=3600", "-f", "lavfi", "-i", "sine=d=3600:r=8000",
           "-vf", "select='not(mod(n,500))'", "-fps_mode", "vfr", "-c:v", "mpeg4", "-c:a", "pcm_mulaw",
           source)  # fmt: skip
    run(source, target, cuts="off")

    def last(path: Path, kind: str) -> float:
        packets = probe(path, "-select_streams", kind, "-show_entries", "packet=pts_time")["packets"]
        return max(float(packet["pts_time"]) for packet in packets)

    half_a_frame = 1 / float(Fraction(rate)) / 4
    for kind in ("v", "a"):
        assert last(target, kind) == pytest.approx(last(source, kind), abs=half_a_frame)
    assert last(target, "v") > 3500


@pytest.mark.parametrize("frames", [0, 1, 3])
def test_a_closed_source_is_freed_with_its_decoder(ffmpeg: Ffmpeg, tmp_path: Path, frames: int) -> None:
    """At once, not when garbage is collected: a decoder has threads, and memory for several frames."""
    clip = tmp_path / "clip.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.4", clip)
    gc.collect()
    gc.disable()
    try:
        source = open_source(clip)
        assert len(list(islice(source.frames(), frames))) == frames
        alive = weakref.ref(source)
        source.close()
        del source
        assert alive() is None
    finally:
        gc.enable()
