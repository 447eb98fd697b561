"""The GPU backend on a device that is the host: buffers, order, sizes, memory."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from zsm.engine import Bundle, Runtime
from zsm.engine.backends.gpu.backend import DeviceBackend
from zsm.engine.backends.gpu.cuda import Gpu
from zsm.engine.backends.timed import StageTime, TimedBackend
from zsm.errors import BackendError
from zsm.runtime.stream import stream

Open = Callable[..., DeviceBackend]


def clip_of(frames: int, height: int = 6, width: int = 9, dtype: str = "uint8") -> NDArray[Any]:
    white = {"float32": 1, "uint8": 255, "uint16": 65535}[dtype]
    return (np.random.default_rng(0).random((frames, height, width, 3), np.float32) * white).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("fixture", ["tiny_bundle", "bicubic_bundle"])
def test_outputs_equal_those_of_the_cpu_backend(
    fixture: str, dtype: str, host_backend: Open, host_gpu: Any, request: pytest.FixtureRequest
) -> None:
    bundle = request.getfixturevalue(fixture)
    clip = clip_of(6, dtype=dtype)
    backend = host_backend(bundle, host_gpu)
    found = np.stack(list(stream(backend, clip, network=Bundle(bundle).network, window=4, overlap=1)))
    backend.close()
    with Runtime(bundle, threads=1) as rt:
        np.testing.assert_array_equal(found, rt(clip))


def test_streams_of_different_sizes_do_not_disturb_each_other(
    tiny_bundle: Path, host_backend: Open, host_gpu: Any
) -> None:
    clips = [clip_of(5, 6, 9), clip_of(5, 7, 9), clip_of(5, 12, 4)]  # the first two have planes of the same size
    backend = host_backend(tiny_bundle, host_gpu)
    streams = [stream(backend, clip, network=Bundle(tiny_bundle).network, window=4, overlap=1) for clip in clips]
    found = list(zip(*streams, strict=True))
    with Runtime(tiny_bundle, threads=1) as rt:
        for number, clip in enumerate(clips):
            np.testing.assert_array_equal(np.stack([each[number] for each in found]), rt(clip))
    backend.close()


def test_buffers_are_reused_and_freed(tiny_bundle: Path, host_backend: Open, host_gpu: Any) -> None:
    backend = host_backend(tiny_bundle, host_gpu)
    frame = clip_of(1)[0]
    allocations = []
    for number, _ in enumerate(
        stream(backend, (frame for _ in range(40)), network=Bundle(tiny_bundle).network, window=4, overlap=1)
    ):
        allocations.append(host_gpu.allocations)
        assert number < 79
    assert allocations[-1] == allocations[20]
    backend.close()
    gc.collect()
    assert host_gpu.used == {}


def test_when_memory_is_short_idle_buffers_of_other_sizes_are_freed(
    tiny_bundle: Path, host_backend: Open, host_gpu: Any
) -> None:
    def process(backend: Any, height: int) -> None:
        for _ in stream(backend, clip_of(5, height), network=Bundle(tiny_bundle).network, window=4, overlap=1):
            pass

    measured = type(host_gpu)()
    process(host_backend(tiny_bundle, measured), 24)
    host_gpu.limit = int(1.1 * measured.bytes)
    backend = host_backend(tiny_bundle, host_gpu)
    process(backend, 20)
    process(backend, 24)
    with pytest.raises(BackendError, match="not enough memory"):
        process(backend, 240)
    backend.close()
    gc.collect()
    assert host_gpu.used == {}


def test_a_stage_is_finished_when_its_time_is_taken(
    tiny_bundle: Path, host_backend: Open, host_gpu: Any, host_array_at: Any
) -> None:
    backend = host_backend(tiny_bundle, host_gpu)
    session = TimedBackend(backend, {}).open(200, 300)
    planes = session.ingest(clip_of(1, 200, 300)[0])
    found = host_array_at(planes.address, planes.shape, planes.dtype).copy()  # without waiting
    np.testing.assert_array_equal(found, session.to_host(planes)())
    assert np.isfinite(found).all()
    backend.close()


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_every_stage_is_measured(cuda_graphs: bool, tiny_bundle: Path, host_backend: Open, host_gpu: Any) -> None:
    backend = host_backend(tiny_bundle, host_gpu, cuda_graphs=cuda_graphs)
    clip = clip_of(4)
    plain = list(stream(backend, clip, network=Bundle(tiny_bundle).network, window=4, overlap=1))
    for _ in range(2):
        times: dict[str, StageTime] = {}
        timed = TimedBackend(backend, times)
        np.testing.assert_array_equal(
            list(stream(timed, clip, network=Bundle(tiny_bundle).network, window=4, overlap=1)), plain
        )
        calls = {"ingest_uint8": 4, "extract": 4, "interpolate": 3, "propagate": 7, "reconstruct": 7, "emit_uint8": 7}
        assert {stage: time.calls for stage, time in times.items()} == calls
    backend.close()


def test_parts_of_a_tensor_are_aligned(tiny_bundle: Path, host_backend: Open, host_gpu: Any) -> None:
    backend = host_backend(tiny_bundle, host_gpu)
    session = backend.open(8, 8)
    for extent in (16, 5):
        array = np.arange(2 * 4 * extent, dtype=np.float32).reshape(2, 1, extent, 4)
        whole = session.from_host(array)
        parts = session.split(whole)
        np.testing.assert_array_equal(np.concatenate([session.to_host(part)() for part in parts]), array)
        assert (parts[1].address - whole.address == array.nbytes // 2) == (extent == 16)
    backend.close()


def test_stages_are_named_in_timelines(tiny_bundle: Path, host_backend: Open, host_gpu: Any) -> None:
    backend = host_backend(tiny_bundle, host_gpu)
    list(stream(backend, clip_of(1), network=Bundle(tiny_bundle).network, window=4, overlap=1))
    assert list(host_gpu.names) == ["ingest_uint8", "extract", "propagate", "reconstruct", "emit_uint8"]
    backend.close()
    with Gpu.named(host_gpu, "extract"):
        pass
