"""Choosing where a bundle runs, and a Runtime's life."""

from pathlib import Path

import numpy as np
import pytest

from zsm.engine import Runtime
from zsm.errors import BackendError, Error, WindowError


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:0", "", "CPU"])
def test_an_unknown_device(device: str, tiny_bundle: Path) -> None:
    with pytest.raises(BackendError, match="unknown device"):
        Runtime(tiny_bundle, device=device)


def test_a_device_that_is_not_there_is_not_replaced_by_another(tiny_bundle: Path) -> None:
    with pytest.raises(BackendError, match="cuda:0"):
        Runtime(tiny_bundle, device="cuda:0")


def test_an_unknown_backend(tiny_bundle: Path) -> None:
    with pytest.raises(BackendError, match="unknown backend 'ncnn'; choose auto, onnxruntime"):
        Runtime(tiny_bundle, backend="ncnn")


def test_no_threads(tiny_bundle: Path) -> None:
    with pytest.raises(BackendError, match="0 threads"):
        Runtime(tiny_bundle, threads=0)
    with pytest.raises(BackendError, match="99999999 threads are more than the 1024"):
        Runtime(tiny_bundle, threads=99_999_999)


def test_a_window_that_cannot_be(tiny_bundle: Path) -> None:
    with pytest.raises(WindowError):
        Runtime(tiny_bundle, window=4, overlap=4)


def test_every_error_is_a_zsm_error(tmp_path: Path) -> None:
    with pytest.raises(Error):
        Runtime(tmp_path)


def test_a_closed_runtime_is_not_used(tiny_bundle: Path) -> None:
    with Runtime(tiny_bundle) as rt:
        pass
    with pytest.raises(BackendError, match="closed"):
        rt(np.zeros((1, 4, 4, 3), np.uint8))
    rt.close()


def test_describe_says_what_runs_where(tiny_bundle: Path) -> None:
    with Runtime(tiny_bundle, window=5, threads=1) as rt:
        said = rt.describe()
    assert said["provider"] == "CPUExecutionProvider"
    assert (said["window"], said["latency_frames"], said["threads"]) == (5, 4, 1)


def test_two_runtimes_and_two_streams_do_not_disturb_each_other(tiny_bundle: Path) -> None:
    clips = np.random.default_rng(0).random((2, 5, 4, 4, 3), np.float32)
    with Runtime(tiny_bundle) as rt, Runtime(tiny_bundle, window=3) as other:
        alone = [rt(clip) for clip in clips]
        both = list(zip(rt.stream(clips[0]), rt.stream(clips[1]), strict=True))
        other(clips[0])
        np.testing.assert_array_equal(np.stack([a for a, _ in both]), alone[0])
        np.testing.assert_array_equal(np.stack([b for _, b in both]), alone[1])


def test_a_stream_ends_with_its_runtime(tiny_bundle: Path) -> None:
    with Runtime(tiny_bundle) as rt:
        outputs = rt.stream(np.zeros((9, 4, 4, 3), np.uint8))
        next(outputs)
    with pytest.raises(BackendError, match="closed"):
        list(outputs)
