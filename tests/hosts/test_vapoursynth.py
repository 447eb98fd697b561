"""The VapourSynth filter in VapourSynth, against `Runtime`. `make test-hosts` makes the environment for these tests."""

import gc
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.needs import missing, module

from zsm.engine import Runtime
from zsm.errors import OutOfMemoryError
from zsm.runtime import windows

ROOT = Path(__file__).parents[2]

Array = NDArray[Any]


@pytest.fixture(scope="module")
def vs() -> Any:
    return module("vapoursynth", "vapoursynth", "make test-hosts")


@pytest.fixture(scope="module")
def restore(vs: Any) -> Callable[..., Any]:
    from zsm.hosts.vapoursynth import restore

    return restore


@pytest.fixture(params=[1, 4])
def threads(vs: Any, request: pytest.FixtureRequest) -> Any:
    """VapourSynth's own threads."""
    before, vs.core.num_threads = vs.core.num_threads, request.param
    yield request.param
    vs.core.num_threads = before


@pytest.fixture
def node_of(vs: Any) -> Callable[..., Any]:
    """A clip of an array's frames. `cuts` are the frames that begin scenes, None if no detector looked for them; `read`
    gets the number of each frame requested.
    """

    def make(
        clip: Array, form: Any = vs.RGB24, cuts: Collection[int] | None = (), read: list[int] | None = None
    ) -> Any:
        count, height, width, _ = clip.shape
        blank = vs.core.std.BlankClip(
            width=width, height=height, format=form, length=count, fpsnum=24000, fpsden=1001, keep=True
        )

        def fill(n: int, f: Any) -> Any:
            frame = f.copy()
            for plane in range(3):
                np.asarray(frame[plane])[:] = clip[n, ..., plane]
            frame.props.update(_AbsoluteTime=n / 8, number=n)
            if cuts is not None:
                frame.props.update(_SceneChangeNext=int(n + 1 in cuts), _SceneChangePrev=int(n in cuts))
            if read is not None:
                read.append(n)
            return frame

        return blank.std.ModifyFrame(blank, fill)

    return make


def clip_of(frames: int, dtype: str = "uint8", height: int = 4, width: int = 6) -> Array:
    values = np.random.default_rng(frames).random((frames, height, width, 3), np.float32)
    white = {"uint8": 255, "uint16": 65535}.get(dtype, 1)
    return (values * white).astype(dtype)


def pixels_of(frame: Any) -> Array:
    return np.stack([np.asarray(frame[plane]) for plane in range(3)], axis=-1)


def expected_of(clip: Array, cuts: Collection[int] = (), **options: Any) -> Array:
    """What `Runtime` makes of a clip, the last frame twice."""
    with Runtime("compact", threads=1, **options) as rt:
        outputs = list(rt.stream(clip, cuts=list(cuts)))
    return np.stack([*outputs, outputs[-1]])


@pytest.mark.parametrize(
    ("form", "dtype"), [("RGB24", "uint8"), ("RGB48", "uint16"), ("RGBS", "float32"), ("RGBH", "float16")]
)
def test_frames_in_order(
    form: str, dtype: str, threads: int, vs: Any, restore: Callable[..., Any], node_of: Callable[..., Any]
) -> None:
    clip = clip_of(9, dtype)
    out = restore(node_of(clip, getattr(vs, form), cuts={4}), threads=1)
    assert (out.format.name, out.width, out.height, out.num_frames) == (form, 24, 16, 18)
    assert out.fps == Fraction(48000, 1001)
    computed = clip.astype(np.float32) if dtype == "float16" else clip
    expected = expected_of(computed, {4}).astype(dtype)
    for number, frame in enumerate(out.frames(close=True)):
        np.testing.assert_array_equal(pixels_of(frame), expected[number])


@pytest.mark.parametrize("seed", range(4))
def test_frames_in_any_order(seed: int, threads: int, restore: Callable[..., Any], node_of: Callable[..., Any]) -> None:
    chosen = random.Random(seed)
    window = chosen.randint(2, 5)
    lengths = {"window": window, "overlap": chosen.randint(1, window - 1)}
    clip, cuts = clip_of(60, height=2, width=2), sorted(chosen.sample(range(1, 60), 3))
    expected = expected_of(clip, cuts, **lengths)
    out = restore(node_of(clip, cuts=cuts), threads=1, **lengths)
    for number in [*(2 * cut for cut in cuts), *chosen.choices(range(120), k=20)]:
        with out.get_frame(number) as frame:
            np.testing.assert_array_equal(pixels_of(frame), expected[number], f"frame {number}")


@pytest.mark.parametrize("requests", [1, 4])
def test_frames_requested_by_several_threads_at_once(
    requests: int, threads: int, restore: Callable[..., Any], node_of: Callable[..., Any]
) -> None:
    clip, cuts = clip_of(16), {5, 11}
    expected = expected_of(clip, cuts)
    out = restore(node_of(clip, cuts=cuts), threads=1)

    def read(seed: int) -> bool:
        numbers = random.Random(seed).sample(range(32), 32) if seed % 2 else range(32)
        futures = [(number, out.get_frame_async(number)) for number in numbers]
        return all(np.array_equal(pixels_of(future.result(60)), expected[number]) for number, future in futures)

    with ThreadPoolExecutor(requests) as pool:
        assert list(pool.map(read, range(requests))) == [True] * requests


def test_frames_that_are_not_scene_changes_are_mixed_without_sc(
    restore: Callable[..., Any], node_of: Callable[..., Any]
) -> None:
    clip = clip_of(5)
    out = restore(node_of(clip, cuts={2}), sc=False, threads=1)
    np.testing.assert_array_equal([pixels_of(frame) for frame in out.frames()], expected_of(clip))


def test_properties(restore: Callable[..., Any], node_of: Callable[..., Any]) -> None:
    out = restore(node_of(clip_of(5), cuts={3}), threads=1)
    found = [dict(frame.props) for frame in out.frames()]
    assert [each["number"] for each in found] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert [n for n, each in enumerate(found) if each["_SceneChangeNext"]] == [5]
    assert [n for n, each in enumerate(found) if each["_SceneChangePrev"]] == [6]
    assert {Fraction(each["_DurationNum"], each["_DurationDen"]) for each in found} == {Fraction(1001, 48000)}
    half = 1001 / 48000
    np.testing.assert_allclose(
        [each["_AbsoluteTime"] for each in found], [n // 2 / 8 + n % 2 * half for n in range(10)]
    )


def test_a_variable_frame_rate_stays_variable(vs: Any, restore: Callable[..., Any]) -> None:
    out = restore(vs.core.std.BlankClip(width=4, height=4, format=vs.RGB24, length=2, fpsnum=0, fpsden=1), threads=1)
    assert out.fps == 0
    assert "_DurationNum" not in out.get_frame(1).props


def test_seeking_reads_little(restore: Callable[..., Any], node_of: Callable[..., Any]) -> None:
    clip = np.broadcast_to(clip_of(1, height=2, width=2), (1000, 2, 2, 3))
    for options, cuts, most in (({"sc": False}, (), 12), ({"sc": True}, (870,), 101), ({}, None, 13)):
        read: list[int] = []
        restore(node_of(clip, cuts=cuts, read=read), threads=1, **options).get_frame(1800)
        assert max(read) <= 903
        assert len(set(read)) <= most


def test_frames_in_order_are_read_once(restore: Callable[..., Any], node_of: Callable[..., Any]) -> None:
    read: list[int] = []
    out = restore(node_of(clip_of(9), read=read), threads=1)
    for _ in out.frames(prefetch=1):
        pass
    assert read == list(range(9))


def test_what_cannot_be_restored_is_an_error(vs: Any, restore: Callable[..., Any], node_of: Callable[..., Any]) -> None:
    rgb = node_of(clip_of(3))
    sizes = vs.core.std.Splice([rgb, node_of(clip_of(3, width=9))], mismatch=True)
    for clip, options, message in (
        (5, {}, "clip is 5; give a video node"),
        (vs.core.std.BlankClip(format=vs.YUV420P8), {}, "the clip is YUV420P8; convert it to RGB24, .* with resize"),
        (sizes, {}, "the clip's format or size varies; make it constant"),
        (rgb, {"bundle": "nowhere"}, "nowhere is not a bundle"),
        (rgb, {"window": 1}, "a window of 1 frames has no gap to fill"),
        (rgb, {"device": "tpu"}, "tpu"),
        (rgb, {"tile": "5x7"}, "5"),
    ):
        with pytest.raises(vs.Error, match=f"^zsm: .*{message}"):
            restore(clip, **options)


def test_interlaced_frames_are_refused(vs: Any, restore: Callable[..., Any], node_of: Callable[..., Any]) -> None:
    clip = clip_of(3)
    out = restore(node_of(clip).std.SetFieldBased(2), threads=1)
    with pytest.raises(vs.Error, match=r"zsm: frame 0 is interlaced; deinterlace .*std.SetFieldBased\(clip, 0\)"):
        out.get_frame(0)
    progressive = restore(node_of(clip).std.SetFieldBased(2).std.SetFieldBased(0), threads=1)
    np.testing.assert_array_equal([pixels_of(frame) for frame in progressive.frames()], expected_of(clip))


def test_scenes_detected_in_a_part_are_refused(
    vs: Any, restore: Callable[..., Any], node_of: Callable[..., Any]
) -> None:
    clip = clip_of(6)
    joined = node_of(clip[:3], cuts=None) + node_of(clip[3:])
    with pytest.raises(vs.Error, match=r"zsm: frame 3 has _SceneChangeNext, but frame 0 doesn't; .* pass sc=False"):
        restore(joined, threads=1).get_frame(7)
    whole = restore(joined, threads=1, sc=False)
    np.testing.assert_array_equal([pixels_of(frame) for frame in whole.frames()], expected_of(clip))


def test_after_an_error_frames_can_be_requested_again(
    vs: Any, restore: Callable[..., Any], node_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = clip_of(5)
    out = restore(node_of(clip), threads=1)
    out.get_frame(1)
    with monkeypatch.context() as patch:
        patch.setattr(windows, "boundary", fail)  # within FrameStream.push
        with pytest.raises(vs.Error, match=r"zsm: frames don't fit\n$"):
            out.get_frame(8)
    np.testing.assert_array_equal(pixels_of(out.get_frame(8)), expected_of(clip)[8])


def fail(*arguments: Any) -> Any:
    raise OutOfMemoryError("frames don't fit")


def test_the_runtime_is_closed_with_the_filter(
    restore: Callable[..., Any], node_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Runtime] = []
    monkeypatch.setattr(Runtime, "close", lambda self: closed.append(self))
    out = restore(node_of(clip_of(2)), threads=1)
    out.get_frame(1)
    assert not closed
    del out
    gc.collect()
    assert len(closed) == 1


def test_the_runtime_is_not_closed_under_running_threads_at_exit(vs: Any) -> None:
    script = (
        "import vapoursynth as vs\nfrom zsm.engine import Runtime\nfrom zsm.hosts.vapoursynth import restore\n"
        "Runtime.close = lambda self: print('closed')\n"
        "clip = restore(vs.core.std.BlankClip(width=8, height=8, format=vs.RGB24), threads=1)\n"
        "other = restore(vs.core.std.BlankClip(width=8, height=8, format=vs.RGB24), threads=1)\n"
        "del other\nimport gc\ngc.collect()\nprint('exit')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["closed", "exit"]


def test_a_source_that_fails_once_can_be_read_again(
    vs: Any, restore: Callable[..., Any], node_of: Callable[..., Any]
) -> None:
    clip = clip_of(5)
    failures = [2]

    def fail_once(n: int, f: Any) -> Any:
        if n in failures:
            failures.remove(n)
            raise ValueError("the disk is gone")
        return f

    source = node_of(clip)
    out = restore(source.std.ModifyFrame(source, fail_once), threads=1)
    with pytest.raises(vs.Error, match="the disk is gone"):
        out.get_frame(1)
    np.testing.assert_array_equal([pixels_of(frame) for frame in out.frames()], expected_of(clip))


@pytest.fixture
def scripts(vs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for scripts, and `vspipe` in PATH."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    subprocess.run(["vapoursynth", "config"], check=True, capture_output=True)
    return tmp_path


def documented(language: str) -> str:
    """The block in that language in docs/vapoursynth.md."""
    [code] = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "vapoursynth.md").read_text(), re.DOTALL)
    return str(code)


def test_the_documented_script_and_command(scripts: Path, vs: Any, node_of: Callable[..., Any]) -> None:
    if shutil.which("ffmpeg") is None:
        missing("ffmpeg", "ffmpeg is not installed")
    video, sound = "testsrc2=size=48x32:rate=25:duration=0.4,negate=enable='gte(n,6)'", "sine=duration=0.4"
    coded = "-c:v ffv1 -pix_fmt yuv420p -colorspace smpte170m"  # not that of the result
    make = f"ffmpeg -v error -f lavfi -i {video} -f lavfi -i {sound} {coded} holiday.mkv"
    subprocess.run(make.split(), check=True, cwd=scripts)
    (scripts / "film.vpy").write_text(documented("python"))

    done = subprocess.run(["vspipe", "-c", "y4m", "film.vpy", "-"], check=True, cwd=scripts, capture_output=True)
    header, *frames = done.stdout.split(b"FRAME\n")
    assert header.startswith(b"YUV4MPEG2 C420 W192 H128 F50:1")
    source = vs.core.bs.VideoSource(str(scripts / "holiday.mkv"), cachemode=0)
    rgb = source.resize.Bicubic(format=vs.RGB24, matrix_in_s="170m")
    expected = node_of(expected_of(np.stack([pixels_of(frame) for frame in rgb.frames()]), cuts={6}))
    yuv = expected.resize.Bicubic(format=vs.YUV420P8, matrix_s="709")
    for data, frame in zip(frames, yuv.frames(), strict=True):
        assert data == b"".join(np.asarray(frame[plane]).tobytes() for plane in range(3))

    subprocess.run(["bash", "-euo", "pipefail", "-c", documented("sh")], check=True, cwd=scripts, capture_output=True)
    shown = "stream=codec_type,width,color_space,nb_read_packets"
    probe = f"ffprobe -v error -count_packets -show_entries {shown} -of json restored.mkv"
    found = json.loads(subprocess.run(probe.split(), check=True, cwd=scripts, capture_output=True).stdout)["streams"]
    assert [stream["codec_type"] for stream in found] == ["video", "audio"]
    assert (found[0]["width"], found[0]["nb_read_packets"], found[0]["color_space"]) == (192, "20", "bt709")


def test_part_of_a_long_clip_in_vspipe(scripts: Path) -> None:
    (scripts / "long.vpy").write_text(
        "import vapoursynth as vs\nfrom zsm.hosts.vapoursynth import restore\n"
        "restore(vs.core.std.BlankClip(width=8, height=8, format=vs.RGB24, length=10**6), sc=False).set_output()\n"
    )
    command = "vspipe --start 5000 --end 5040 --requests 4 long.vpy -"
    done = subprocess.run(command.split(), check=True, cwd=scripts, capture_output=True)
    assert len(done.stdout) == 41 * 32 * 32 * 3
