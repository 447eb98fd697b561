"""Files nobody prepared: what can't be used is refused with one message, the rest is restored and noted."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tests.video.conftest import REPEATER

from zsm.errors import ArgumentError, VideoError
from zsm.runtime.video import Encoding, Summary, read_frames, restore

Ffmpeg = Callable[..., bytes]

MUTATIONS = int(os.environ.get("ZSM_FUZZ", "120"))
"""How many damaged files are tried; ZSM_FUZZ=500 is the long run."""


@pytest.fixture(scope="module")
def clip(ffmpeg: Ffmpeg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("damaged") / "clip.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=2", "-f", "lavfi", "-i", "sine=d=2", "-g", "10",
           "-c:v", "libx264", "-c:a", "aac", "-movflags", "faststart", path)  # fmt: skip
    return path


def run(source: Path, target: Path, **options: Any) -> Summary:
    return restore(source, target, REPEATER, encoding=Encoding(preset="ultrafast"), **options)


def test_files_that_are_not_videos_are_rejected(ffmpeg: Ffmpeg, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    (tmp_path / "header.mp4").write_bytes(clip.read_bytes()[:400])
    (tmp_path / "folder").mkdir()
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", tmp_path / "sound.wav")
    messages = {
        "empty.mp4": "is empty",
        "text.mp4": "can't open",
        "header.mp4": "can't be decoded",
        "folder": "holds no images",
        "sound.wav": "has no video stream",
        "absent.mp4": "No such file",
    }
    for name, message in messages.items():
        with pytest.raises(VideoError, match=message):
            run(tmp_path / name, tmp_path / "out.mp4")
        with pytest.raises(VideoError, match=message):
            next(read_frames(tmp_path / name))
    assert not (tmp_path / "out.mp4").exists()


def test_an_animated_webp_is_unsupported_rather_than_damaged(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for path in (tmp_path / "animated.webp", tmp_path / "images" / "animated.webp"):
        ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32:r=10:d=0.4", path)
        with pytest.raises(VideoError, match="animated WebP") as failure:
            run(path if path.parent == tmp_path else path.parent, tmp_path / "out.mp4")
        assert "damaged" not in str(failure.value)


def test_what_an_edit_list_cuts_off_is_not_missing(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32:r=25:d=3", "-c:v", "libx264", "-g", "25", "-bf", "2", whole)
    ffmpeg("-ss", "0.6", "-i", whole, "-c", "copy", cut)
    summary = run(cut, tmp_path / "out.mp4")
    assert summary.frames_in == len(list(read_frames(cut))) < 75
    assert not summary.notes


def test_a_truncated_file_is_restored_as_far_as_it_goes(clip: Path, tmp_path: Path) -> None:
    data = clip.read_bytes()
    (tmp_path / "short.mp4").write_bytes(data[: len(data) * 2 // 3])
    summary = run(tmp_path / "short.mp4", tmp_path / "out.mp4")
    assert 10 < summary.frames_in < 50
    assert f"the file announces 50 frames, {summary.frames_in} could be read" in summary.notes


def test_damage_in_the_middle_is_noted(clip: Path, tmp_path: Path) -> None:
    data = bytearray(clip.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(1).bytes(3000)
    (tmp_path / "hurt.mp4").write_bytes(data)
    summary = run(tmp_path / "hurt.mp4", tmp_path / "out.mp4")
    assert summary.frames_in > 30
    assert any("damaged" in note for note in summary.notes)


def test_a_size_that_changes_is_scaled_and_noted(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    for size in ("64x48", "96x64"):
        ffmpeg("-f", "lavfi", "-i", f"testsrc2=s={size}:d=0.4", "-c:v", "libx264", tmp_path / f"{size}.ts")
    both = (tmp_path / "64x48.ts").read_bytes() + (tmp_path / "96x64.ts").read_bytes()
    (tmp_path / "both.ts").write_bytes(both)
    summary = run(tmp_path / "both.ts", tmp_path / "out.mp4")
    assert summary.frames_in == 20
    assert summary.size_out == (256, 192)
    assert any(note.startswith("the size changes from 64x48 to 96x64 at frame 10") for note in summary.notes)


@pytest.mark.parametrize("size", ["1x1", "3x5", "17x31"])
def test_odd_sizes(ffmpeg: Ffmpeg, probe: Callable[..., Any], tmp_path: Path, size: str) -> None:
    source = tmp_path / "in.mkv"
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=s=32x32:d=0.2,scale={size.replace('x', ':')}",
           "-pix_fmt", "yuv444p", "-c:v", "ffv1", source)  # fmt: skip
    width, height = (int(extent) for extent in size.split("x"))
    run(source, tmp_path / "out.mp4")
    stream = probe(tmp_path / "out.mp4")["streams"][0]
    assert (stream["width"], stream["height"]) == (4 * width, 4 * height)


def test_one_frame(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32:r=25", "-frames:v", "1", tmp_path / "one.mkv")
    assert run(tmp_path / "one.mkv", tmp_path / "out.mp4").frames_out == 1
    assert sum(1 for _ in read_frames(tmp_path / "out.mp4")) == 1


def test_huge_frames_are_rejected(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "color=s=8200x8200:r=1", "-frames:v", "1", "-c:v", "mjpeg", tmp_path / "huge.avi")
    with pytest.raises(VideoError, match="frames of 8200x8200"):
        run(tmp_path / "huge.avi", tmp_path / "out.mp4")


def test_images_of_unequal_size_or_depth_are_rejected(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, (size, dtype) in enumerate([((8, 9), np.uint8), ((8, 9), np.uint8), ((8, 10), np.uint8)]):
        cv2.imwrite(str(folder / f"{number}.png"), np.zeros((*size, 3), dtype))
    with pytest.raises(VideoError, match=r"2\.png is 10x8, but the images before it are 9x8"):
        run(folder, tmp_path / "out.mp4")
    cv2.imwrite(str(folder / "2.png"), np.zeros((8, 9, 3), np.uint16))
    with pytest.raises(VideoError, match="must have the same depth"):
        run(folder, tmp_path / "out.mp4")
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:40])
    with pytest.raises(VideoError, match="is damaged"):
        run(folder, tmp_path / "out.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


def test_an_output_that_is_the_input_is_rejected(clip: Path, tmp_path: Path) -> None:
    data = clip.read_bytes()
    same = tmp_path / "same.mp4"
    same.write_bytes(data)
    with pytest.raises(VideoError, match="is the input"):
        run(same, same, overwrite=True)
    assert same.read_bytes() == data


@pytest.mark.parametrize("name", ["out.txt", "out.avi", "out.gif"])
def test_containers_that_are_not_written(clip: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ArgumentError, match=r"choose \.mp4, \.mkv, \.mov, \.webm, or a folder"):
        run(clip, tmp_path / name)


def test_mutated_files_give_a_result_or_a_message(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    """In a process of its own with little memory, so that a crash or a hang is seen."""
    for suffix, codec in (("mp4", "libx264"), ("mkv", "libx265"), ("ts", "libx264"), ("avi", "mpeg4"),
                          ("webm", "libvpx-vp9"), ("mov", "prores"), ("gif", "gif")):  # fmt: skip
        quiet = ["-x265-params", "log-level=none"] if codec == "libx265" else []
        sound = [] if suffix == "gif" else ["-f", "lavfi", "-i", "sine=d=0.3"]
        ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x24:r=25:d=0.3", *sound, "-c:v", codec, *quiet,
               tmp_path / f"healthy.{suffix}")  # fmt: skip
    script = Path(__file__).with_name("fuzz.py")
    command = [sys.executable, str(script), str(tmp_path), "0", str(MUTATIONS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + 5 * MUTATIONS, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["number"] for result in results] == list(range(MUTATIONS))
    restored = [result for result in results if "frames" in result]
    assert 0.3 * MUTATIONS < len(restored) < MUTATIONS
