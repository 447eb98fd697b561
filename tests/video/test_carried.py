"""Whatever a source holds besides its frames reaches the output, or the summary says that it didn't."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.video.conftest import REPEATER

from zsm.runtime.video import Encoding, Options, Summary, open_pipe, open_source, restore, restore_source

Ffmpeg = Callable[..., bytes]
Probe = Callable[..., Any]

FAST = Encoding(preset="ultrafast")
PICTURE = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.4")
SOUND = ("-f", "lavfi", "-i", "sine=d=0.4")
X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")

WORDS = {
    "ATSC A53 Part 4 Closed Captions": "closed captions",
    "Active format description": "active format",
    "ICC profile": "ICC profile",
    "Spherical Mapping": "360-degree",
    "Stereo 3D": "stereo 3D",
}
"""What a note calls side data that ffprobe finds in frames."""
OF_ITS_OWN = {
    *("encoder", "duration", "major_brand", "minor_version", "compatible_brands", "vendor_id"),
    *("stereo_mode", "timecode"),
}
"""Tags that say something of a file itself, or that have tests of their own."""


def captions(ffmpeg: Ffmpeg, folder: Path) -> Path:
    """MPEG-2 with closed captions, in the user data of each picture (ATSC A/53, part 4)."""
    user_data = b"\0\0\1\xb2GA94\x03\xc1\xff\xfc\x94\x20\xff"
    ffmpeg(*PICTURE, "-c:v", "mpeg2video", "-bf", "0", "-f", "mpeg2video", folder / "plain.m2v")
    slices = (folder / "plain.m2v").read_bytes().split(b"\0\0\1\1")
    (folder / "captions.m2v").write_bytes((user_data + b"\0\0\1\1").join(slices))
    ffmpeg("-fflags", "+genpts", "-i", folder / "captions.m2v", "-c", "copy", folder / "captions.ts")
    return folder / "captions.ts"


def stereo(ffmpeg: Ffmpeg, folder: Path) -> Path:
    ffmpeg(*PICTURE, *X264, "-metadata:s:v:0", "stereo_mode=right_left", folder / "stereo.mkv")
    return folder / "stereo.mkv"


def phone(ffmpeg: Ffmpeg, folder: Path) -> Path:
    """A phone's film: QuickTime tags, a place, and a track of data."""
    tags = {
        "com.apple.quicktime.make": "Maker",
        "com.apple.quicktime.location.ISO6709": "+52.5+013.4/",
        "title": "Holiday",
        "creation_time": "2024-05-06T07:08:09Z",
    }
    given = [word for key, value in tags.items() for word in ("-metadata", f"{key}={value}")]
    ffmpeg(*PICTURE, *SOUND, *X264, "-c:a", "aac", *given, "-movflags", "use_metadata_tags", "-timecode", "01:00:00:00",
           folder / "phone.mov")  # fmt: skip
    return folder / "phone.mov"


def disc(ffmpeg: Ffmpeg, folder: Path) -> Path:
    """A film with two videos, two sounds, subtitles, a font, a cover and tags of every stream."""
    (folder / "a.srt").write_text("1\n00:00:00,000 --> 00:00:00,300\nHello\n")
    (folder / "font.ttf").write_bytes(b"font")
    ffmpeg("-f", "lavfi", "-i", "color=red:s=32x32", "-frames:v", "1", folder / "cover.png")
    ffmpeg(*PICTURE, *SOUND, "-i", folder / "a.srt", "-i", folder / "cover.png",
           *("-map", "0", "-map", "0", "-map", "1", "-map", "1", "-map", "2", "-map", "3"),
           *X264, "-c:v:2", "copy", "-disposition:v:2", "attached_pic",
           *("-c:a:0", "ac3", "-c:a:1", "flac", "-c:s", "srt"),
           *("-attach", folder / "font.ttf", "-metadata:s:t:0", "mimetype=font/ttf"),
           *("-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "title=Comment", "-metadata:s:v:0", "language=fre"),
           *("-metadata", "ARTIST=Somebody", "-metadata", "own_tag=1", "-metadata:s:a:0", "own_track_tag=2"),
           folder / "disc.mkv")  # fmt: skip
    return folder / "disc.mkv"


def broadcast(ffmpeg: Ffmpeg, folder: Path) -> Path:
    """A recorded broadcast with two programmes' worth of sound, and sound of a kind that few formats hold."""
    ffmpeg(*PICTURE, *SOUND, "-map", "0", "-map", "1", "-map", "1", "-c:v", "mpeg2video",
           *("-c:a:0", "mp2", "-c:a:1", "s302m", "-strict", "-2", "-ar", "48000", "-ac", "2"),
           *("-metadata:s:a:0", "language=ger"), folder / "broadcast.ts")  # fmt: skip
    return folder / "broadcast.ts"


@pytest.mark.parametrize(
    "suffix", ["mp4", "mkv", *(pytest.param(suffix, marks=pytest.mark.slow) for suffix in ("mov", "webm"))]
)
@pytest.mark.parametrize("make", [captions, stereo, phone, disc, broadcast])
def test_everything_arrives_or_is_noted(
    make: Callable[[Ffmpeg, Path], Path], suffix: str, ffmpeg: Ffmpeg, probe: Probe, tmp_path: Path
) -> None:
    source, target = make(ffmpeg, tmp_path), tmp_path / f"out.{suffix}"
    summary = restore(source, target, REPEATER, encoding=Encoding(preset="8") if suffix == "webm" else FAST)
    notes = "\n".join(summary.notes).lower()
    given, found = contents(probe, source), contents(probe, target)
    lost = [what for what in given.keys() - found.keys() if not any(word in notes for word in given[what])]
    assert not lost, notes


def contents(probe: Probe, path: Path) -> dict[tuple[str, ...], tuple[str, ...]]:
    """What a file holds, and the words by which a note could name each part."""
    found = probe(path)
    streams = found["streams"]
    read = (
        "-select_streams",
        "v:0",
        "-show_frames",
        "-read_intervals",
        "%+#3",
        "-show_entries",
        "frame=side_data_list",
    )
    main = next(stream["index"] for stream in streams if stream["codec_type"] == "video")
    result: dict[tuple[str, ...], tuple[str, ...]] = {}
    for frame in probe(path, *read)["frames"]:
        for data in frame.get("side_data_list", []):
            if data["side_data_type"] in WORDS:
                result["side data", data["side_data_type"]] = (WORDS[data["side_data_type"]].lower(),)
    kinds: dict[str, int] = {}
    for stream in streams:
        kind = stream["codec_type"]
        kinds[kind] = kinds.get(kind, 0) + 1
        named = f"stream {stream['index']} ", f"picture {stream['index']} "
        if kind != "data" or "timecode" not in stream.get("tags", {}):
            result["stream", kind, str(kinds[kind])] = named
        if kind in ("audio", "subtitle") or stream["index"] == main:
            for key in tags(stream):
                result["tag", kind, str(kinds[kind]), key] = (key, *named)
    for key in tags(found["format"]):
        result["tag", "file", key] = (key,)
    return result


def tags(part: Any) -> Iterator[str]:
    for key, value in part.get("tags", {}).items():
        statistics = key.startswith(("BPS", "DURATION", "NUMBER_OF", "_STATISTICS"))
        if key.lower() not in OF_ITS_OWN and not statistics and value != "und":
            yield key.lower()


def test_user_data_is_noted_unless_it_is_the_encoders_settings(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    message = "h264_metadata=sei_user_data=" + "0123456789abcdef" * 2 + "+x"
    for name, filters in {"plain": [], "more": ["-bsf:v", message]}.items():
        ffmpeg(*PICTURE, "-c:v", "libx264", *filters, tmp_path / f"{name}.mp4")
        notes = restore(tmp_path / f"{name}.mp4", tmp_path / f"{name}.mkv", REPEATER, encoding=FAST).notes
        assert any("user data" in note for note in notes) == (name == "more")


def test_a_pipe_s_sound_and_subtitles_are_kept(ffmpeg: Ffmpeg, probe: Probe, tmp_path: Path) -> None:
    source = disc(ffmpeg, tmp_path)
    from_file, from_pipe = tmp_path / "file.mkv", tmp_path / "pipe.mkv"
    restore(source, from_file, REPEATER, encoding=FAST)
    restore_pipe(source, from_pipe)
    for entries in ("stream=codec_name,codec_type", "packet=codec_type,pts_time,size"):
        expected, found = (probe(path, "-show_entries", entries) for path in (from_file, from_pipe))
        assert sorted(map(str, found[f"{entries.split('=')[0]}s"])) == sorted(
            map(str, expected[f"{entries.split('=')[0]}s"])
        )
    languages = [stream.get("tags", {}).get("language") for stream in probe(from_pipe)["streams"]]
    assert languages[:2] == ["fre", "eng"]


@pytest.mark.parametrize(("suffix", "options"), [("mp4", {}), ("webm", {"fps_mode": "slow"})])
def test_a_pipe_s_sound_is_converted_like_a_file_s(
    ffmpeg: Ffmpeg, probe: Probe, tmp_path: Path, suffix: str, options: Any
) -> None:
    source = tmp_path / "two.mkv"
    ffmpeg(*PICTURE, *SOUND, "-map", "0", "-map", "1", "-map", "1", *X264, "-c:a:0", "pcm_s24le", "-c:a:1", "truehd",
           "-strict", "-2", source)  # fmt: skip
    targets = [tmp_path / f"file.{suffix}", tmp_path / f"pipe.{suffix}"]
    encoding = Encoding(preset="8") if suffix == "webm" else FAST
    restore(source, targets[0], REPEATER, encoding=encoding, **options)
    restore_pipe(source, targets[1], encoding=encoding, **options)
    expected, found = ([float(stream["start_time"]) for stream in probe(target)["streams"]] for target in targets)
    assert len(expected) == 3
    assert found == pytest.approx(expected, abs=0.003)


def restore_pipe(source: Path, target: Path, **options: Any) -> Summary:
    with source.open("rb", buffering=0) as file, closing(open_pipe(Unseekable(file))) as opened:  # type: ignore[arg-type]
        return restore_source(opened, target, REPEATER, Options(**{"encoding": FAST, **options}))


class Unseekable:
    """A pipe: can only be read."""

    def __init__(self, file: Any) -> None:
        self.read = file.read


@pytest.mark.parametrize("target", ["stills", "-"])
def test_outputs_of_pictures_only_say_what_they_leave_out(ffmpeg: Ffmpeg, tmp_path: Path, target: str) -> None:
    ffmpeg(*PICTURE, *SOUND, *X264, "-c:a", "aac", tmp_path / "film.mp4")
    with closing(open_source(tmp_path / "film.mp4")) as source, (tmp_path / "out.y4m").open("wb") as pipe:
        into: Any = pipe if target == "-" else tmp_path / target
        notes = restore_source(source, into, REPEATER, Options()).notes
    assert any("pictures only: audio stream 1 (aac)" in note for note in notes)


def test_a_pipe_s_sound_may_be_damaged(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    """Frames of a kind that Matroska can't hold end the sound, not the run."""
    ffmpeg("-f", "lavfi", "-i", "sine=d=0.4", "-c:a", "aac", tmp_path / "sound.aac")
    sound = bytearray((tmp_path / "sound.aac").read_bytes())
    places, place = [], 0
    while place < len(sound):
        places.append(place)
        place += int.from_bytes(sound[place + 3 : place + 6]) >> 5 & 0x1FFF  # the length in the ADTS header
    for place in places[len(places) // 2 :]:
        sound[place + 1] &= 0xFE  # with a checksum
        sound[place + 6] |= 1  # of two blocks
    (tmp_path / "damaged.aac").write_bytes(sound)
    ffmpeg(*PICTURE, "-i", tmp_path / "damaged.aac", "-c:v", "mpeg2video", "-c:a", "copy", tmp_path / "film.ts")
    notes = restore_pipe(tmp_path / "film.ts", tmp_path / "out.mkv").notes
    assert sum("stream 1 of the input pipe ends early" in note for note in notes) == 1
