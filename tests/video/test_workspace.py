"""Two runs of one output, inputs that change before a run is resumed, and outputs that only look finished."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.video.conftest import REPEATER, Repeater

from zsm.errors import ArgumentError, StoppedError, VideoError
from zsm.runtime.video import Encoding, Options, is_finished, open_pipe, open_source, restore, restore_source

FAST = Encoding(preset="ultrafast")


@pytest.fixture(scope="module")
def clip(ffmpeg: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x24:r=25:d=1", path)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZSM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def frames(probe: Callable[..., Any], path: Path) -> int:
    found = probe(path, "-count_frames", "-select_streams", "v", "-show_entries", "stream=nb_read_frames")
    return int(found["streams"][0]["nb_read_frames"])


def interrupt(source: Path, target: Path, *, overwrite: bool = False) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError, match="continue with --resume"):
        restore(source, target, REPEATER, encoding=Encoding(), segment=5, stop=stop, overwrite=overwrite)


@pytest.mark.parametrize("name", ["out.mkv", "out"])
@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}])
def test_a_second_run_of_the_same_output_is_refused(
    clip: Path, tmp_path: Path, name: str, how: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another thread, by another spelling of the name, after some frames; the first run goes on undisturbed."""
    target = tmp_path / name
    refused: list[str] = []

    def second(progress: Any) -> None:
        if progress.frame == 20:
            monkeypatch.chdir(tmp_path)
            with pytest.raises(VideoError) as caught:
                restore(clip, Path(name), REPEATER, segment=5, **how)  # type: ignore[arg-type]
            refused.append(str(caught.value))

    restore(clip, target, REPEATER, segment=5, listener=second)
    assert refused == [f"another run (process {os.getpid()}) is at work on {name}; let it finish, or stop it first"]
    assert target.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "cache"])


def test_a_killed_run_leaves_no_lock(
    bicubic_bundle: Path, clip: Path, tmp_path: Path, probe: Callable[..., Any]
) -> None:
    target = tmp_path / "out.mkv"
    script = "import sys; from zsm.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "run", str(bicubic_bundle), str(clip), str(target), "--segment", "5"]
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line).get("frame") == 12:
                process.send_signal(signal.SIGSTOP)
                second = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
                assert second.returncode == 1
                assert f"another run (process {process.pid}) is at work" in second.stderr
                process.kill()
                break
    assert (tmp_path / ".out.mkv.zsm" / "lock").exists()
    subprocess.run([*command, "--resume"], check=True, capture_output=True)
    assert frames(probe, target) == 49


def change_pixels(folder: Path) -> None:
    first, *others = sorted(folder.iterdir())
    times = first.stat()
    first.write_bytes(others[-1].read_bytes())
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns + 1))


def add_one(folder: Path) -> None:
    last = sorted(folder.iterdir())[-1]
    (folder / "999.png").write_bytes(last.read_bytes())


def remove_one(folder: Path) -> None:
    sorted(folder.iterdir())[-1].unlink()


def rename_one(folder: Path) -> None:
    sorted(folder.iterdir())[0].rename(folder / "998.png")


@pytest.mark.parametrize("change", [change_pixels, add_one, remove_one, rename_one])
@pytest.mark.parametrize("name", ["out.mp4", "out"])
def test_a_folder_of_other_images_is_not_resumed(
    ffmpeg: Callable[..., bytes], tmp_path: Path, change: Callable[[Path], None], name: str
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x24:r=25:d=0.4", images / "%03d.png")
    interrupt(images, tmp_path / name)
    change(images)
    with pytest.raises(VideoError, match="was another job, with different input images"):
        restore(images, tmp_path / name, REPEATER, segment=5, resume=True)


def test_an_unchanged_folder_is_resumed_at_its_rate_only(ffmpeg: Callable[..., bytes], tmp_path: Path) -> None:
    images, target = tmp_path / "images", tmp_path / "out.mp4"
    images.mkdir()
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x24:r=25:d=0.4", images / "%03d.png")
    interrupt(images, target)
    with pytest.raises(VideoError, match="with different rate"):
        restore(images, target, REPEATER, segment=5, resume=True, rate=30)
    assert restore(images, target, REPEATER, segment=5, resume=True).resumed_at == 5


def test_images_are_resumed_whatever_the_length_of_segments(clip: Path, tmp_path: Path) -> None:
    """They have none; a video's are part of its job."""
    for name in ("out", "out.mp4"):
        interrupt(clip, tmp_path / name)
    done = len(list((tmp_path / ".out.zsm").glob("*/*.png")))
    assert restore(clip, tmp_path / "out", REPEATER, segment=7, resume=True).resumed_at == done > 0
    with pytest.raises(VideoError, match="was another job, with different segment"):
        restore(clip, tmp_path / "out.mp4", REPEATER, segment=7, resume=True)


def test_a_pipe_is_not_resumed(ffmpeg: Callable[..., bytes], clip: Path, tmp_path: Path) -> None:
    (tmp_path / "pipe.y4m").write_bytes(ffmpeg("-i", clip, "-f", "yuv4mpegpipe", "-"))
    target = tmp_path / "out.mp4"
    stop = threading.Event()
    stop.set()
    with (tmp_path / "pipe.y4m").open("rb") as pipe, pytest.raises(StoppedError, match="a pipe can't be resumed"):
        restore_source(open_pipe(pipe), target, REPEATER, Options(segment=5), stop=stop)
    with (tmp_path / "pipe.y4m").open("rb") as pipe, pytest.raises(ArgumentError, match="a pipe can't be resumed"):
        restore_source(open_pipe(pipe), target, REPEATER, Options(segment=5, resume=True))
    with (tmp_path / "pipe.y4m").open("rb") as pipe:
        restore_source(open_pipe(pipe), target, REPEATER, Options(segment=5, overwrite=True))


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def another_file(path: Path) -> None:
    path.write_text("shopping list")


def touched(path: Path) -> None:
    os.utime(path, ns=(0, 0))


def finished(source: Path, target: Path, restorer: Repeater = REPEATER, **options: Any) -> bool:
    opened = open_source(source)
    try:
        return is_finished(opened, target, restorer, Options(encoding=FAST, **options))
    finally:
        opened.close()


@pytest.mark.parametrize("name", ["out.mkv", "out"])
def test_what_appears_in_the_place_of_an_interrupted_output_is_kept(clip: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    interrupt(clip, target)
    if target.suffix:
        target.write_text("precious")
    else:
        target.mkdir()
        (target / "000000.png").write_text("precious")
    with pytest.raises(VideoError, match="appeared after the run was interrupted"):
        restore(clip, target, REPEATER, segment=5, resume=True)
    assert (target if target.suffix else target / "000000.png").read_text() == "precious"
    restore(clip, target, REPEATER, segment=5, resume=True, overwrite=True)


def test_an_output_that_was_to_be_replaced_is_replaced_on_resuming(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mkv"
    target.write_text("old")
    interrupt(clip, target, overwrite=True)
    restore(clip, target, REPEATER, segment=5, resume=True)
    assert target.read_bytes() != b"old"


@pytest.mark.parametrize("spoil", [nothing, half, another_file, touched])
def test_only_an_unchanged_result_is_finished(clip: Path, tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    target = tmp_path / "out.mkv"
    assert not finished(clip, target)
    restore(clip, target, REPEATER, encoding=FAST)
    assert finished(clip, target)
    spoil(target)
    before = target.read_bytes()
    assert not finished(clip, target)
    with pytest.raises(VideoError, match="exists, but isn't the result of this run; replace it with"):
        restore(clip, target, REPEATER, encoding=FAST, resume=True)
    assert target.read_bytes() == before


def test_the_result_of_another_job_is_not_finished(ffmpeg: Callable[..., bytes], clip: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "clip.mp4", tmp_path / "out.mkv"
    source.write_bytes(clip.read_bytes())
    restore(source, target, REPEATER, encoding=FAST)
    assert finished(source, target)
    assert not finished(source, target, fps_mode="slow")
    assert not finished(source, target, Repeater(identity="another"))
    ffmpeg("-f", "lavfi", "-i", "mandelbrot=s=32x24:r=25", "-t", "1", source)
    assert not finished(source, target)


def test_folders_of_images_are_finished_as_a_whole(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    assert not finished(clip, target)
    restore(clip, target, REPEATER, encoding=Encoding(), resume=True)
    opened = open_source(clip)
    assert is_finished(opened, target, REPEATER, Options())
    (target / "000007.png").unlink()
    assert not is_finished(opened, target, REPEATER, Options())
    opened.close()


def test_a_cache_that_cannot_be_written_spoils_no_result(clip: Path, tmp_path: Path, cache: Path) -> None:
    cache.write_text("not a folder")
    restore(clip, tmp_path / "out.mkv", REPEATER, encoding=FAST)
    assert not finished(clip, tmp_path / "out.mkv")
    assert (tmp_path / "out.mkv").exists()


def test_a_link_or_a_mount_point_is_not_replaced(clip: Path, tmp_path: Path) -> None:
    """Which is said at the beginning, not after the last frame."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    (tmp_path / "broken").symlink_to("nowhere")
    for target, kind in (("link", "a symbolic link"), ("broken", "a symbolic link"), ("/proc", "a mount point")):
        with pytest.raises(VideoError, match=f"{target} is {kind}, which a folder of images can't replace; choose"):
            restore(clip, tmp_path / target, REPEATER, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "elsewhere", "link"]


def test_a_folder_that_cannot_be_put_in_its_place_is_kept(clip: Path, tmp_path: Path) -> None:
    """Because a file has appeared there."""
    target = tmp_path / "out"

    def appear(progress: Any) -> None:
        target.write_text("a file")

    with pytest.raises(
        VideoError, match=r"can't write .*out \(\d+ MiB are free\): .*; the finished part is in .*resume"
    ):
        restore(clip, target, REPEATER, frames=3, listener=appear)
    target.unlink()
    assert restore(clip, target, REPEATER, frames=3, resume=True).resumed_at == 5
    assert len(list(target.iterdir())) == 5
