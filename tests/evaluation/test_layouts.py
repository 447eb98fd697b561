"""Data sets laid out in a temporary folder, read back."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from zsm.errors import DataError, VideoError
from zsm.evaluation import layouts


def write(path: Path, value: int, size: tuple[int, int] = (6, 4)) -> None:
    """A plain image of size WxH whose red is `value`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bgr = np.zeros((size[1], size[0], 3), np.uint8)
    bgr[..., 2] = value
    assert cv2.imwrite(str(path), bgr)


def septuplet(root: Path, name: str) -> None:
    for number in range(1, 8):
        write(root / "sequences" / name / f"im{number}.png", number)


def test_vid4_is_a_folder_a_clip_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    for number in (0, 2, 10, 1):
        write(tmp_path / "walk" / f"frame{number}.png", number)
    write(tmp_path / "city" / "0.png", 9)
    (tmp_path / "readme.txt").write_text("not a clip")
    found = layouts.find(tmp_path, "vid4")
    assert [clip.name for clip in found] == ["city", "walk"]
    frames = found[1].read()
    assert frames.shape == (4, 4, 6, 3)
    assert frames[:, 0, 0].tolist() == [[0, 0, 0], [1, 0, 0], [2, 0, 0], [10, 0, 0]]
    assert found[1].read(start=1, frames=2)[:, 0, 0, 0].tolist() == [1, 2]


def test_vimeo_is_what_the_test_list_names(tmp_path: Path) -> None:
    for name in ("00001/0001", "00001/0002", "00002/0001"):
        septuplet(tmp_path, name)
    (tmp_path / "sep_testlist.txt").write_text("00001/0002\n00002/0001\n\n")
    (tmp_path / "sep_trainlist.txt").write_text("00001/0001\n")
    found = layouts.find(tmp_path, "vimeo")
    assert [(clip.name, clip.group) for clip in found] == [("00001/0002", None), ("00002/0001", None)]
    assert found[0].read()[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert [clip.name for clip in layouts.vimeo(tmp_path, layouts.VIMEO_TRAIN_LIST)] == ["00001/0001"]


def test_vimeo_splits_by_speed_where_the_lists_are(tmp_path: Path) -> None:
    for name in ("00001/0001", "00001/0002", "00001/0003"):
        septuplet(tmp_path, name)
    (tmp_path / "sep_testlist.txt").write_text("00001/0001\n00001/0002\n00001/0003\n")
    (tmp_path / "slow_testset.txt").write_text("00001/0001\n")
    (tmp_path / "fast_testset.txt").write_text("00001/0003\n")
    found = layouts.find(tmp_path, "vimeo")
    assert [(clip.name, clip.group) for clip in found] == [("00001/0003", "fast"), ("00001/0001", "slow")]


def test_a_septuplet_that_is_not_there_is_named(tmp_path: Path) -> None:
    septuplet(tmp_path, "00001/0001")
    (tmp_path / "sequences/00001/0001/im4.png").unlink()
    (tmp_path / "sep_testlist.txt").write_text("00001/0001\n")
    with pytest.raises(DataError, match=r"im4\.png is missing"):
        layouts.find(tmp_path, "vimeo")


def test_clips_may_be_videos_and_folders(tmp_path: Path) -> None:
    write(tmp_path / "b" / "1.png", 5)
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    found = layouts.find(tmp_path)
    assert [(clip.name, clip.source) for clip in found] == [
        ("a", tmp_path / "a.mp4"),
        ("b", tmp_path / "b"),
    ]
    assert [clip.name for clip in layouts.find(tmp_path / "b")] == ["b"]


def test_frames_of_two_sizes_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1.png", 1)
    write(tmp_path / "a" / "2.png", 1, size=(8, 4))
    with pytest.raises(VideoError, match="8x4"):
        layouts.find(tmp_path)[0].read()


@pytest.mark.parametrize("layout", ["vid4", "vimeo", "clips"])
def test_an_empty_folder_says_what_was_expected(layout: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected|comes with"):
        layouts.find(tmp_path, layout)


def test_other_mistakes_say_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        layouts.find(tmp_path / "nowhere")
    with pytest.raises(DataError, match="vid4, vimeo, clips"):
        layouts.find(tmp_path, "davis")
    (tmp_path / "a.mp4").write_bytes(b"")
    write(tmp_path / "a" / "1.png", 1)
    with pytest.raises(DataError, match="called a"):
        layouts.find(tmp_path)
    (tmp_path / "a" / "1.png").write_bytes(b"no image")
    with pytest.raises(VideoError, match="not an image"):
        layouts.find(tmp_path / "a")[0].read()
