"""Work that is recorded and replayed: when, with which results, and what happens where it can't be."""

import gc
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from zsm.engine import Runtime
from zsm.engine.backends.gpu import graphs as recordings
from zsm.engine.backends.gpu.backend import DeviceBackend
from zsm.engine.backends.gpu.cuda import Gpu
from zsm.engine.backends.gpu.device import Tensor
from zsm.engine.backends.gpu.graphs import Recordings
from zsm.engine.backends.gpu.pool import DeviceMemory
from zsm.engine.backends.gpu.transfers import Downloads, Uploads
from zsm.errors import BackendError
from zsm.runtime.stream import stream

Open = Callable[..., DeviceBackend]


def clip_of(frames: int, height: int = 6, width: int = 9) -> NDArray[np.uint8]:
    return np.random.default_rng(2).integers(0, 256, (frames, height, width, 3), np.uint8)


def restore(backend: DeviceBackend, clip: NDArray[np.uint8], window: int = 4) -> NDArray[np.uint8]:
    return np.stack(list(stream(backend, clip, directions=2, window=window, overlap=1)))


def test_each_step_is_recorded_once_for_each_shape_and_length(
    tiny_bundle: Path, host_backend: Open, host_gpu: Any
) -> None:
    backend = host_backend(tiny_bundle, host_gpu)
    compute = host_gpu.streams[0]
    restore(backend, clip_of(4))
    # Of each step the first is done plainly: 4 frames, 3 gaps, 1 recurrence, 7 outputs.
    assert compute.launches == 3 + 2 + 0 + 6
    restore(backend, clip_of(4))
    assert compute.launches == 11 + 4 + 3 + 1 + 7
    before = compute.launches
    restore(backend, clip_of(3))  # another length, whose recurrence is new
    assert compute.launches == before + 3 + 2 + 0 + 5
    before = compute.launches
    restore(backend, clip_of(3, 12, 20))  # everything is new
    assert compute.launches == before + 2 + 1 + 0 + 4
    before = compute.launches
    restore(backend, clip_of(4))  # stages that were loaded later may have moved those of before
    assert compute.launches == before + 3 + 2 + 0 + 6
    backend.close()


@pytest.mark.parametrize("slow", [0.0, 0.001])
def test_interleaved_streams_don_t_overwrite_each_other(
    slow: float, tiny_bundle: Path, host_backend: Open, host_gpu: Any
) -> None:
    host_gpu.delays = [slow]
    backend = host_backend(tiny_bundle, host_gpu)
    clips = [clip_of(9), clip_of(9)[::-1], clip_of(9)[:, ::-1]]
    streams = [stream(backend, clip, directions=2, window=3, overlap=1, ahead=2) for clip in clips]
    found = list(zip(*streams, strict=True))
    with Runtime(tiny_bundle, threads=1, window=3) as rt:
        for number, clip in enumerate(clips):
            np.testing.assert_array_equal(np.stack([each[number] for each in found]), rt(clip))
    backend.close()


def test_what_cannot_be_recorded_is_done_plainly_and_the_log_says_why(
    tiny_bundle: Path, host_backend: Open, host_gpu: Any, caplog: pytest.LogCaptureFixture
) -> None:
    backend = host_backend(tiny_bundle, host_gpu)
    compute = host_gpu.streams[0]
    end = compute.end_recording

    def refuse() -> Any:
        end()
        raise BackendError("operation not permitted when stream is capturing")

    compute.end_recording = refuse
    with Runtime(tiny_bundle, threads=1) as rt, caplog.at_level(logging.WARNING, "zsm"):
        for _ in range(2):
            np.testing.assert_array_equal(restore(backend, clip_of(6)), rt(clip_of(6)))
    said = [record.getMessage() for record in caplog.records]
    # One step of the recurrence is tried when the whole can't be recorded. Each is told of once.
    steps = ["extract", "interpolate", "propagate", "reconstruct", "recurrence"]
    assert sorted(text.split()[0] for text in said) == steps
    assert all(text.endswith("kernel by kernel: operation not permitted when stream is capturing") for text in said)
    assert compute.launches == 0
    backend.close()
    gc.collect()
    assert host_gpu.used == {}


def test_a_failure_while_recording_ends_the_recording(
    tiny_bundle: Path, host_backend: Open, host_gpu: Any, caplog: pytest.LogCaptureFixture
) -> None:
    backend = host_backend(tiny_bundle, host_gpu)
    compute = host_gpu.streams[0]
    zero = compute.zero

    def fails_when_recorded(address: int, size: int) -> None:
        if compute.recording is not None:
            raise BackendError("it can't be recorded")
        zero(address, size)

    compute.zero = fails_when_recorded
    with Runtime(tiny_bundle, threads=1) as rt:
        for _ in range(2):
            np.testing.assert_array_equal(restore(backend, clip_of(6)), rt(clip_of(6)))
    assert [record.getMessage().split()[0] for record in caplog.records] == ["recurrence"]
    assert compute.launches > 0
    backend.close()


def test_larger_work_than_the_limit_is_never_recorded(
    tiny_bundle: Path, host_backend: Open, host_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    planes = 3 * 8 * 12 * 4
    monkeypatch.setattr(recordings, "LARGEST", planes)
    backend = host_backend(tiny_bundle, host_gpu)
    restore(backend, clip_of(5))
    assert host_gpu.streams[0].launches == 4  # of extract; everything else reads more
    backend.close()


def test_graphs_are_given_up_before_memory_runs_out(
    tiny_bundle: Path, host_backend: Open, host_gpu: Any, caplog: pytest.LogCaptureFixture
) -> None:
    plain = type(host_gpu)()
    restore(host_backend(tiny_bundle, plain, recordable=False), clip_of(9))
    host_gpu.limit = int(1.02 * plain.bytes)
    backend = host_backend(tiny_bundle, host_gpu)
    with Runtime(tiny_bundle, threads=1) as rt:
        np.testing.assert_array_equal(restore(backend, clip_of(9)), rt(clip_of(9)))
    assert "memory is short: CUDA graphs are given up" in caplog.text
    backend.close()
    gc.collect()
    assert host_gpu.used == {}


def test_replays_have_names_in_timelines(tiny_bundle: Path, host_backend: Open, host_gpu: Any) -> None:
    backend = host_backend(tiny_bundle, host_gpu)
    restore(backend, clip_of(1))
    host_gpu.names.clear()
    restore(backend, clip_of(1))
    assert list(host_gpu.names) == ["ingest_uint8", "extract", "recurrence", "reconstruct", "emit_uint8"]
    backend.close()


@pytest.mark.gpu
def test_a_graph_is_recorded_and_replayed_on_the_gpu(gpu: Gpu, caplog: pytest.LogCaptureFixture) -> None:
    compute = gpu.stream()
    memory = DeviceMemory(gpu, compute)
    uploads, downloads = Uploads(gpu, compute, memory), Downloads(gpu, compute)
    graphs = Recordings(gpu, compute, memory)

    def swap(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        zeros = memory.new((8,), np.float32)
        compute.zero(zeros.address, zeros.nbytes)
        return {"a": memory.copy(tensors["b"]), "b": memory.copy(tensors["a"]), "zeros": zeros}

    for number in range(4):
        arrays = {name: np.full(8, number + offset, np.float32) for name, offset in (("a", 0), ("b", 100))}
        sent = {name: uploads.begin(array) for name, array in arrays.items()}
        found = {name: downloads.begin(tensor)() for name, tensor in graphs.do("swap", swap, sent).items()}
        np.testing.assert_array_equal(found["a"], arrays["b"])
        np.testing.assert_array_equal(found["b"], arrays["a"])
        np.testing.assert_array_equal(found["zeros"], np.zeros(8))
    assert caplog.records == []
