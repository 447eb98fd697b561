"""CUDA graphs: when stages are recorded and replayed, with which results, and what happens if they can't be."""

import gc
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from zsm.engine import NetworkConfig, Runtime
from zsm.engine.backends.gpu import graphs
from zsm.engine.backends.gpu.backend import DeviceBackend
from zsm.engine.backends.gpu.cuda import Gpu
from zsm.engine.backends.gpu.pool import DeviceMemory
from zsm.engine.backends.gpu.tensor import Tensor
from zsm.engine.backends.gpu.transfers import Downloads, Uploads
from zsm.errors import BackendError
from zsm.runtime.stream import stream

Open = Callable[..., DeviceBackend]


def clip_of(frames: int, height: int = 6, width: int = 9) -> NDArray[np.uint8]:
    return np.random.default_rng(2).integers(0, 256, (frames, height, width, 3), np.uint8)


def restore(backend: DeviceBackend, clip: NDArray[np.uint8], window: int = 4) -> NDArray[np.uint8]:
    return np.stack(list(stream(backend, clip, network=NetworkConfig(), window=window, overlap=1)))


def test_each_stage_is_recorded_once_per_frame_size(tiny_bundle: Path, host_backend: Open, host_gpu: Any) -> None:
    backend = host_backend(tiny_bundle, host_gpu, cuda_graphs=True)
    compute = host_gpu.streams[0]
    restore(backend, clip_of(4))
    calls = 4 + 3 + 7 + 7  # 4 frames, 3 gaps, 7 steps of the recurrence, 7 outputs
    assert compute.launches == calls - 4  # the first call of each stage is executed without a graph
    restore(backend, clip_of(4))
    assert compute.launches == 2 * calls - 4
    restore(backend, clip_of(3))  # another length needs no other graphs
    assert compute.launches == 2 * calls - 4 + (3 + 2 + 5 + 5)
    before = compute.launches
    restore(backend, clip_of(4, 12, 20))
    assert compute.launches == before + calls - 4
    restore(backend, clip_of(4))  # loading another size may have moved the memory that graphs refer to
    assert compute.launches == before + 2 * (calls - 4)
    backend.close()


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_graphs_are_opt_in(cuda_graphs: bool, tiny_bundle: Path, host_backend: Open, host_gpu: Any) -> None:
    backend = host_backend(tiny_bundle, host_gpu, cuda_graphs=cuda_graphs)
    restore(backend, clip_of(4))
    assert (host_gpu.streams[0].launches > 0) == cuda_graphs
    assert backend.describe()["cuda_graphs"] == cuda_graphs
    backend.close()


def test_garbage_is_collected_as_ever_without_graphs(
    tiny_bundle: Path, host_backend: Open, host_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc, "disable", lambda: pytest.fail("the garbage collector is switched off"))
    backend = host_backend(tiny_bundle, host_gpu)
    restore(backend, clip_of(4))
    backend.close()


@pytest.mark.parametrize("slow", [0.0, 0.001])
def test_interleaved_streams_do_not_overwrite_each_other(
    slow: float, tiny_bundle: Path, host_backend: Open, host_gpu: Any
) -> None:
    host_gpu.delays = [slow]
    backend = host_backend(tiny_bundle, host_gpu, cuda_graphs=True)
    clips = [clip_of(9), clip_of(9)[::-1], clip_of(9)[:, ::-1]]
    streams = [stream(backend, clip, network=NetworkConfig(), window=3, overlap=1, ahead=2) for clip in clips]
    found = list(zip(*streams, strict=True))
    with Runtime(tiny_bundle, threads=1, window=3) as rt:
        for number, clip in enumerate(clips):
            np.testing.assert_array_equal(np.stack([each[number] for each in found]), rt(clip))
    backend.close()


def test_stages_that_cannot_be_recorded_are_launched_without_graphs_and_the_log_says_why(
    tiny_bundle: Path, host_backend: Open, host_gpu: Any, caplog: pytest.LogCaptureFixture
) -> None:
    backend = host_backend(tiny_bundle, host_gpu, cuda_graphs=True)
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
    assert sorted(text.split()[0] for text in said) == ["extract", "interpolate", "propagate", "reconstruct"]
    assert all(text.endswith("kernel by kernel: operation not permitted when stream is capturing") for text in said)
    assert compute.launches == 0
    backend.close()
    gc.collect()
    assert host_gpu.used == {}


def test_a_failure_while_recording_ends_the_capture(
    tiny_bundle: Path, host_backend: Open, host_gpu: Any, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    backend = host_backend(tiny_bundle, host_gpu, cuda_graphs=True)
    compute = host_gpu.streams[0]
    stage_type = type(backend.open(6, 9)._stages["propagate"])
    enqueue = stage_type.enqueue

    def fails_when_recorded(stage: Any, outputs: Any, stream: Any) -> None:
        if compute.recording is not None and "next_hidden" in outputs:
            raise BackendError("it can't be recorded")
        enqueue(stage, outputs, stream)

    monkeypatch.setattr(stage_type, "enqueue", fails_when_recorded)
    with Runtime(tiny_bundle, threads=1) as rt:
        for _ in range(2):
            np.testing.assert_array_equal(restore(backend, clip_of(6)), rt(clip_of(6)))
    assert [record.getMessage().split()[0] for record in caplog.records] == ["propagate"]
    assert compute.launches > 0
    backend.close()


def test_stages_with_inputs_above_the_limit_are_not_recorded(
    tiny_bundle: Path, host_backend: Open, host_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    planes = 3 * 8 * 12 * 4
    monkeypatch.setattr(graphs, "LARGEST", planes)
    backend = host_backend(tiny_bundle, host_gpu, cuda_graphs=True)
    restore(backend, clip_of(5))
    assert host_gpu.streams[0].launches == 4  # of extract; the other stages read more
    backend.close()


def test_graphs_are_given_up_before_memory_runs_out(
    tiny_bundle: Path, host_backend: Open, host_gpu: Any, caplog: pytest.LogCaptureFixture
) -> None:
    plain = type(host_gpu)()
    restore(host_backend(tiny_bundle, plain), clip_of(9))
    host_gpu.limit = int(1.02 * plain.bytes)
    backend = host_backend(tiny_bundle, host_gpu, cuda_graphs=True)
    with Runtime(tiny_bundle, threads=1) as rt:
        np.testing.assert_array_equal(restore(backend, clip_of(9)), rt(clip_of(9)))
    assert "memory is short: CUDA graphs are given up" in caplog.text
    backend.close()
    gc.collect()
    assert host_gpu.used == {}


def test_replays_are_named_in_timelines(tiny_bundle: Path, host_backend: Open, host_gpu: Any) -> None:
    backend = host_backend(tiny_bundle, host_gpu, cuda_graphs=True)
    restore(backend, clip_of(1))
    host_gpu.names.clear()
    restore(backend, clip_of(1))
    assert list(host_gpu.names) == ["ingest_uint8", "extract", "propagate", "reconstruct", "emit_uint8"]
    backend.close()


@pytest.mark.gpu
def test_a_graph_is_recorded_and_replayed_on_the_gpu(gpu: Gpu, caplog: pytest.LogCaptureFixture) -> None:
    compute = gpu.stream()
    memory = DeviceMemory(gpu, compute)
    uploads, downloads = Uploads(gpu, compute, memory), Downloads(gpu, compute)
    recorded = graphs.Graphs(gpu, compute, memory)

    def swap(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        zeros = memory.new((8,), np.float32)
        compute.zero(zeros.address, zeros.nbytes)
        return {"a": memory.copy(tensors["b"]), "b": memory.copy(tensors["a"]), "zeros": zeros}

    for number in range(4):
        arrays = {name: np.full(8, number + offset, np.float32) for name, offset in (("a", 0), ("b", 100))}
        sent = {}
        for name, array in arrays.items():
            with uploads.send(array) as tensor:
                sent[name] = memory.copy(tensor)
        outputs = recorded.run("swap", "swap", swap, sent)
        found = {name: downloads.begin(tensor)() for name, tensor in outputs.items()}
        np.testing.assert_array_equal(found["a"], arrays["b"])
        np.testing.assert_array_equal(found["b"], arrays["a"])
        np.testing.assert_array_equal(found["zeros"], np.zeros(8))
    assert caplog.records == []
