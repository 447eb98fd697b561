"""Data sets written to a temporary folder, and read back."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from zsm.errors import ArgumentError, DataError, VideoError
from zsm.evaluation import layouts


def write(path: Path, value: int, size: tuple[int, int] = (6, 4)) -> None:
    """Write a plain image of size WxH whose red is `value`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bgr = np.zeros((size[1], size[0], 3), np.uint8)
    bgr[..., 2] = value
    assert cv2.imwrite(str(path), bgr)


def septuplet(root: Path, name: str) -> None:
    for number in range(1, 8):
        write(root / "sequences" / name / f"im{number}.png", number)


def test_vid4_has_one_folder_per_clip_with_frames_in_numeric_order(tmp_path: Path) -> None:
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


def test_vimeo_has_the_septuplets_of_the_test_list(tmp_path: Path) -> None:
    for name in ("00001/0001", "00001/0002", "00002/0001"):
        septuplet(tmp_path, name)
    (tmp_path / "sep_testlist.txt").write_text("00001/0002\n00002/0001\n\n")
    (tmp_path / "sep_trainlist.txt").write_text("00001/0001\n")
    found = layouts.find(tmp_path, "vimeo")
    assert [(clip.name, clip.group) for clip in found] == [("00001/0002", None), ("00002/0001", None)]
    assert found[0].read()[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert [clip.name for clip in layouts.vimeo(tmp_path, layouts.VIMEO_TRAIN_LIST)] == ["00001/0001"]


def test_vimeo_is_grouped_by_speed_if_the_lists_are_there(tmp_path: Path) -> None:
    for name in ("00001/0001", "00001/0002", "00001/0003"):
        septuplet(tmp_path, name)
    (tmp_path / "sep_testlist.txt").write_text("00001/0001\n00001/0002\n00001/0003\n")
    (tmp_path / "slow_testset.txt").write_text("00001/0001\n")
    (tmp_path / "fast_testset.txt").write_text("00001/0003\n")
    found = layouts.find(tmp_path, "vimeo")
    assert [(clip.name, clip.group) for clip in found] == [("00001/0003", "fast"), ("00001/0001", "slow")]


def test_a_list_that_is_not_text_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "sep_testlist.txt").write_bytes(b"\xff\xfe00001")
    with pytest.raises(DataError, match=r"sep_testlist\.txt isn't a text file"):
        layouts.find(tmp_path, "vimeo")


def test_a_missing_file_of_a_septuplet_is_named(tmp_path: Path) -> None:
    septuplet(tmp_path, "00001/0001")
    (tmp_path / "sequences/00001/0001/im4.png").unlink()
    (tmp_path / "sep_testlist.txt").write_text("00001/0001\n")
    with pytest.raises(DataError, match=r"im4\.png is missing"):
        layouts.find(tmp_path, "vimeo")


def test_clips_are_videos_and_folders_of_images(tmp_path: Path) -> None:
    write(tmp_path / "b" / "1.png", 5)
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    found = layouts.find(tmp_path)
    assert [(clip.name, clip.source) for clip in found] == [
        ("a", tmp_path / "a.mp4"),
        ("b", tmp_path / "b"),
    ]
    assert [clip.name for clip in layouts.find(tmp_path / "b")] == ["b"]


@pytest.mark.parametrize("layout", ["clips", "vid4"])
def test_linked_folders_are_called_as_the_links_are(layout: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "elsewhere" / name / "frames" / "1.png", 1)
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere" / name / "frames")
    assert [clip.name for clip in layouts.find(tmp_path / "data", layout)] == ["a", "b"]


def test_the_current_folder_is_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "walk" / "1.png", 1)
    monkeypatch.chdir(tmp_path / "walk")
    assert [clip.name for clip in layouts.find(Path())] == ["walk"]


@pytest.mark.parametrize("suffix", ["", ".mp4"])
def test_a_clips_shape_is_that_of_its_frames(suffix: str, tmp_path: Path) -> None:
    if suffix:
        video = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (32, 16))
        for _ in range(5):
            video.write(np.zeros((16, 32, 3), np.uint8))
        video.release()
    else:
        for number in range(5):
            write(tmp_path / "a" / f"{number}.png", number, size=(32, 16))
    (clip,) = layouts.find(tmp_path)
    assert clip.shape() == clip.read().shape == (5, 16, 32, 3)
    assert clip.shape(frames=3) == (3, 16, 32, 3)


def test_hidden_images_are_no_clip_and_images_beside_clips_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    write(tmp_path / "._a.png", 1)
    assert [clip.name for clip in layouts.find(tmp_path)] == ["a"]
    write(tmp_path / "poster.png", 1)
    with pytest.raises(DataError, match=r"holds both images and clips \(a\.mp4\); move the images"):
        layouts.find(tmp_path)


def test_frames_of_different_sizes_are_rejected(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1.png", 1)
    write(tmp_path / "a" / "2.png", 1, size=(8, 4))
    with pytest.raises(VideoError, match="8x4"):
        layouts.find(tmp_path)[0].read()


@pytest.mark.parametrize("layout", ["vid4", "vimeo", "clips"])
def test_an_empty_folder_is_rejected_with_what_was_expected(layout: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected|comes with"):
        layouts.find(tmp_path, layout)


def test_a_missing_folder_and_an_unknown_layout_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        layouts.find(tmp_path / "nowhere")
    with pytest.raises(ArgumentError, match="vid4, vimeo, clips"):
        layouts.find(tmp_path, "davis")


def test_clips_of_the_same_name_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    write(tmp_path / "a" / "1.png", 1)
    with pytest.raises(DataError, match="called a"):
        layouts.find(tmp_path)


def test_damaged_images_and_missing_frames_are_rejected(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1.png", 1)
    (clip,) = layouts.find(tmp_path)
    with pytest.raises(DataError, match="no frame 1"):
        clip.read(start=1)
    clip.source.joinpath("1.png").write_bytes(b"no image")
    with pytest.raises(VideoError, match=r"1\.png"):
        clip.read()
