"""Any name that the file system takes, for inputs and outputs, relative and absolute."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.video.conftest import REPEATER

from zsm.cli import main
from zsm.errors import StoppedError
from zsm.runtime.video import Encoding, Options, open_source, preview, restore

NAMES = [
    "Movie: x.mp4",
    "http:clip.mkv",
    "data:,x.mov",
    "concat:a|b.mp4",
    "file:clip.mkv",
    "C:clip.mp4",
    "100%.mp4",
    "%03d.mkv",
    "-film.mp4",
    "--overwrite.mkv",
    "[a]*?.mp4",
    "a 'b' \"c\"\\.mp4",
    "line\nbreak.mkv",
    "~.mp4",
    "caf\udce9.mkv",  # Latin-1
    "Film.MP4",
    "Film.MkV",
    "あ" * 83 + ".mp4",
    "x" * 251 + ".mkv",
]


@pytest.fixture(scope="module")
def clip(ffmpeg: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x24:r=25:d=0.2", "-f", "lavfi", "-i", "sine=d=0.2", "-c:a", "aac", path)
    return path


def streams(probe: Callable[..., Any], path: Path) -> list[str]:
    return [stream["codec_type"] for stream in probe(path.absolute())["streams"]]


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_read_and_written(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, probe: Callable[..., Any], name: str, absolute: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    source, target = Path("in", name), Path(name)
    source.parent.mkdir()
    source.write_bytes(clip.read_bytes())
    if absolute:
        source, target = source.absolute(), target.absolute()
    restore(source, target, REPEATER)
    assert streams(probe, target) == ["video", "audio"]
    assert {path.name for path in tmp_path.iterdir()} == {"in", name}
    monkeypatch.chdir("in")
    restore(Path(name), Path(name).with_stem("2") if len(name) > 200 else Path(f"2{name}"), REPEATER)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_resumed_under_any_name(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        restore(clip, name, REPEATER, segment=3, stop=stop)
    assert restore(clip, name, REPEATER, segment=3, resume=True).resumed_at == 3
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["Movie: x.png", "100%.png", "%03d.png", "[a]*?.png"])
def test_a_single_image_of_any_name_is_read(
    ffmpeg: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x24", "-frames:v", "1", tmp_path / "image.png")
    (tmp_path / "image.png").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert restore(name, "out.mp4", REPEATER).frames_in == 1


def test_an_upper_case_suffix_gets_the_same_file(clip: Path, tmp_path: Path, probe: Callable[..., Any]) -> None:
    for name in ("a.mp4", "b.MP4"):
        restore(clip, tmp_path / name, REPEATER, encoding=Encoding(codec="hevc", preset="ultrafast"))
    tags = [probe(tmp_path / name)["streams"][0]["codec_tag_string"] for name in ("a.mp4", "b.MP4")]
    assert tags == ["hvc1", "hvc1"]


def test_the_preview_of_a_long_name_fits_too(clip: Path, tmp_path: Path) -> None:
    source = open_source(clip)
    found = preview(source, tmp_path / ("x" * 251 + ".mp4"), REPEATER, Options(), 1)
    source.close()
    assert found.stills[0].exists()


@pytest.mark.parametrize("name", ["Movie: x.mp4", "100%.mp4", "あ" * 83 + ".mp4"])
def test_the_command_line_takes_any_name(
    bicubic_bundle: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(clip.read_bytes())
    assert main(["run", str(bicubic_bundle), name, "out", "--no-progress"]) == 0
    assert main(["run", str(bicubic_bundle), str(clip), f"./{name}", "--no-progress", "--overwrite"]) == 0
