"""`--rate` sets the rate of a folder of images, and is an error for whatever has a rate of its own."""

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from tests.video.conftest import REPEATER

from zsm.cli import main
from zsm.errors import ArgumentError
from zsm.runtime.video import Options, open_pipe, open_source, preview, restore, restore_source


@pytest.fixture(scope="module")
def clip(ffmpeg: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x24:r=25:d=0.2", path)
    return path


@pytest.mark.parametrize("rate", ["60", "25", "30000/1001"])
@pytest.mark.parametrize("more", [[], ["--preview", "1"]])
def test_a_rate_for_a_video_is_rejected(
    bicubic_bundle: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rate: str, more: list[str]
) -> None:
    """Even one that happens to be right."""
    target = tmp_path / "out.mp4"
    assert main(["run", str(bicubic_bundle), str(clip), str(target), "--rate", rate, "--no-progress", *more]) == 2
    assert "has its own frame rate (25); --rate is for folders of images" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_rate_is_rejected_for_pipes_and_from_python(ffmpeg: Callable[..., bytes], clip: Path, tmp_path: Path) -> None:
    y4m = ffmpeg("-i", clip, "-f", "yuv4mpegpipe", "-")
    options = Options(rate=Fraction(30))
    for target in (tmp_path / "out.mp4", io.BytesIO()):
        with pytest.raises(ArgumentError, match="the input pipe has its own frame rate"):
            restore_source(open_pipe(io.BytesIO(y4m)), target, REPEATER, options)
    with pytest.raises(ArgumentError, match="has its own frame rate"):
        restore(clip, tmp_path / "out.mp4", REPEATER, rate=30)
    with pytest.raises(ArgumentError, match="has its own frame rate"):
        preview(open_source(clip), tmp_path / "out.mp4", REPEATER, options, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("rate", "expected"), [(None, "50/1"), (12, "24/1"), (Fraction(24000, 1001), "48000/1001")])
def test_a_folder_of_images_takes_the_rate(
    ffmpeg: Callable[..., bytes], probe: Callable[..., Any], clip: Path, tmp_path: Path, rate: Any, expected: str
) -> None:
    (tmp_path / "images").mkdir()
    ffmpeg("-i", clip, tmp_path / "images" / "%03d.png")
    restore(tmp_path / "images", tmp_path / "out.mp4", REPEATER, rate=rate)
    assert probe(tmp_path / "out.mp4")["streams"][0]["r_frame_rate"] == expected
