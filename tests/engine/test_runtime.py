"""Choosing where a bundle runs, the arguments of `Runtime`, and its life."""

import gc
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zsm.engine import Bundle, Runtime
from zsm.engine.devices import Device
from zsm.errors import ArgumentError, ArgumentTypeError, BackendError, Error, SizeError, WindowError


@pytest.mark.parametrize("device", ["gpu:", "cuda:x", "cpu:0", "npu:1", "", "CPU"])
def test_unknown_devices_are_rejected(device: str, tiny_bundle: Path) -> None:
    with pytest.raises(BackendError, match="unknown device"):
        Runtime(tiny_bundle, device=device)


def test_a_missing_device_is_not_replaced_by_another(tiny_bundle: Path) -> None:
    with pytest.raises(BackendError, match="cuda:0"):
        Runtime(tiny_bundle, device="cuda:0")


def test_unknown_backends_are_rejected(tiny_bundle: Path) -> None:
    with pytest.raises(BackendError, match="unknown backend 'ncnn'; choose auto, onnxruntime"):
        Runtime(tiny_bundle, backend="ncnn")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "tensorrt"}, "the tensorrt backend doesn't run on cpu, but on cuda"),
        (
            {"backend": "openvino", "device": "cuda:0"},
            "openvino backend doesn't run on cuda:0, but on cpu or",
        ),
        ({"backend": "onnxruntime", "precision": "bfloat16"}, "onnxruntime backend computes in the bundle's precision"),
    ],
)
def test_backends_are_not_replaced_by_others(arguments: Any, message: str, tiny_bundle: Path) -> None:
    with pytest.raises(BackendError, match=message):
        Runtime(tiny_bundle, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": 0}, "device is 0; give cpu, cuda:N, gpu:N or npu"),
        ({"backend": 1}, r"backend is 1; give 'auto' or one of onnxruntime, openvino, tensorrt"),
        ({"window": True}, "window is True; give a whole number"),
        ({"window": 4.0}, r"window is 4\.0; give a whole number"),
        ({"overlap": "1"}, "overlap is '1'; give a whole number"),
        ({"threads": 2.0}, r"threads is 2\.0; give a whole number"),
        ({"tile": (640, 544)}, r"tile is \(640, 544\); give a string such as '640x544', 'auto', or None"),
        ({"device": "cuda:0", "cuda_stream": "x"}, "cuda_stream is 'x'; give a whole number"),
    ],
)
def test_arguments_of_the_wrong_type_are_rejected(arguments: Any, message: str, tiny_bundle: Path) -> None:
    with pytest.raises(ArgumentTypeError, match=message):
        Runtime(tiny_bundle, **arguments)


def test_a_bundle_is_a_folder_or_a_name() -> None:
    with pytest.raises(ArgumentTypeError, match="bundle is 3; give a folder, or the name"):
        Runtime(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"window": 1}, WindowError, "window of 1"),
        ({"window": 4, "overlap": 4}, WindowError, "overlap of 4"),
        ({"precision": "fp8"}, ArgumentError, "precision is 'fp8'; choose bundle or bfloat16"),
        ({"threads": 0}, ArgumentError, "threads is 0; give 1 to 1024"),
        ({"threads": 99_999_999}, ArgumentError, "threads is 99999999; give 1 to 1024"),
        ({"tile": ""}, SizeError, "''"),
        ({"cuda_stream": 7}, ArgumentError, "cuda_stream is given, but the device is cpu"),
        ({"cuda_graphs": True}, ArgumentError, "cuda_graphs is given, but the device is cpu"),
        ({"device": "cuda:0", "cuda_stream": 0}, ArgumentError, "cuda_stream is 0, the default stream"),
    ],
)
def test_invalid_arguments_are_rejected(arguments: Any, kind: type[Error], message: str, tiny_bundle: Path) -> None:
    with pytest.raises(kind, match=message) as raised:
        Runtime(tiny_bundle, **arguments)
    assert isinstance(raised.value, ValueError)


def test_whole_numbers_of_any_type_are_accepted(tiny_bundle: Path) -> None:
    four, one = np.int64(4), np.uint8(1)
    with Runtime(tiny_bundle, window=four, overlap=one, threads=np.int32(1)) as rt:  # type: ignore[arg-type]
        assert rt.describe()["window"] == 4
        assert len(list(rt.stream(np.zeros((3, 4, 4, 3), np.uint8), every=np.int64(2)))) == 3  # type: ignore[call-overload]


def test_a_folder_that_is_no_bundle_is_a_zsm_error(tmp_path: Path) -> None:
    with pytest.raises(Error):
        Runtime(tmp_path)


def test_a_closed_runtime_is_not_usable(tiny_bundle: Path) -> None:
    with Runtime(tiny_bundle) as rt:
        pass
    with pytest.raises(BackendError, match="closed"):
        rt(np.zeros((1, 4, 4, 3), np.uint8))
    rt.close()


def test_describe_reports_what_runs_where(tiny_bundle: Path) -> None:
    with Runtime(tiny_bundle, window=5, threads=1) as rt:
        described = rt.describe()
    assert described["provider"] == "CPUExecutionProvider"
    assert (described["window"], described["latency_frames"], described["threads"]) == (5, 4, 1)


def test_reprs_help(tiny_bundle: Path) -> None:
    with Runtime(Bundle(tiny_bundle)) as rt:
        assert repr(rt) == f"<Runtime of {tiny_bundle} on cpu, window 4>"
    assert repr(rt) == f"<Runtime of {tiny_bundle} on cpu, window 4, closed>"
    assert repr(Device.parse("cuda:1")) == "Device('cuda:1')"


def test_two_runtimes_and_two_streams_do_not_disturb_each_other(tiny_bundle: Path) -> None:
    clips = np.random.default_rng(0).random((2, 5, 4, 4, 3), np.float32)
    with Runtime(tiny_bundle) as rt, Runtime(tiny_bundle, window=3) as other:
        alone = [rt(clip) for clip in clips]
        both = list(zip(rt.stream(clips[0]), rt.stream(clips[1]), strict=True))
        other(clips[0])
        np.testing.assert_array_equal(np.stack([a for a, _ in both]), alone[0])
        np.testing.assert_array_equal(np.stack([b for _, b in both]), alone[1])


def test_a_dropped_runtime_is_gone_at_once(tiny_bundle: Path) -> None:
    """With its sessions, each of which has as many threads as a backend may use."""
    gc.collect()
    gc.disable()
    try:
        runtime = Runtime(tiny_bundle, threads=1)
        list(runtime.stream(np.zeros((2, 4, 4, 3), np.uint8)))
        gone = weakref.ref(runtime)
        del runtime
        assert gone() is None
    finally:
        gc.enable()


def test_a_stream_keeps_its_runtime(tiny_bundle: Path) -> None:
    clip = np.random.default_rng(0).random((3, 4, 4, 3), np.float32)
    outputs = Runtime(tiny_bundle, threads=1).stream(clip)
    stream = Runtime(tiny_bundle, threads=1).open_stream()
    with Runtime(tiny_bundle, threads=1) as rt:
        np.testing.assert_array_equal(list(outputs), rt(clip))
        pushed = [output for frame in clip for output in stream.push(frame)]
        np.testing.assert_array_equal([*pushed, *stream.finish()], rt(clip))


def test_a_stream_ends_with_its_runtime(tiny_bundle: Path) -> None:
    with Runtime(tiny_bundle) as rt:
        outputs = rt.stream(np.zeros((9, 4, 4, 3), np.uint8))
        next(outputs)
        pushed = rt.open_stream()
    with pytest.raises(BackendError, match="closed"):
        list(outputs)
    with pytest.raises(BackendError, match="closed"):  # a size that hasn't been seen
        pushed.push(np.zeros((8, 12, 3), np.uint8))


@pytest.mark.parametrize(("library", "extra"), [("onnxruntime", "cpu"), ("openvino", "openvino")])
def test_a_library_that_is_missing_is_named_with_its_extra(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, library: str, extra: str
) -> None:
    monkeypatch.delitem(sys.modules, f"zsm.engine.backends.{library}", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(BackendError, match=rf"{library} isn't installed: pip install 'zsm\[{extra}\]'"):
        Runtime(tiny_bundle, backend=library)
