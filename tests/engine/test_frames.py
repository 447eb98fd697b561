"""Frames in the GPU's memory: read and left there, in order, and kept until they have been read."""

import gc
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.utils.dlpack
from numpy.typing import NDArray
from tests.needs import cuda_provider, module, torch_cuda

from zsm.engine import NetworkConfig, Runtime
from zsm.engine.backends.gpu import cuda
from zsm.engine.backends.gpu.backend import DeviceBackend
from zsm.engine.backends.gpu.frames import DeviceFrame
from zsm.errors import ArgumentError, FrameError
from zsm.runtime.stream import stream

Open = Callable[..., DeviceBackend]


class GpuArray:
    """A frame of CuPy, numba or pycuda, on the device that is the host."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, False),
            "strides": None,
            "stream": None,
        }


def clip_of(frames: int, dtype: str = "uint8") -> NDArray[Any]:
    white = {"float32": 1, "uint8": 255, "uint16": 65535}[dtype]
    return (np.random.default_rng(3).random((frames, 6, 9, 3), np.float32) * white).astype(dtype)


def restore(backend: DeviceBackend, frames: Any, **options: Any) -> list[Any]:
    return list(stream(backend, frames, network=NetworkConfig(), window=4, overlap=1, **options))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("borrowed", [False, True])
def test_frames_stay_on_the_device(
    borrowed: bool, dtype: str, tiny_bundle: Path, host_backend: Open, host_gpu: Any
) -> None:
    clip = clip_of(6, dtype)
    handle = host_gpu.stream().handle if borrowed else None
    backend = host_backend(tiny_bundle, host_gpu, cuda_stream=handle)
    found = restore(backend, map(GpuArray, clip))
    assert all(isinstance(frame, DeviceFrame) for frame in found)
    host_gpu.streams[0].synchronize()  # NumPy has no streams
    with Runtime(tiny_bundle, threads=1) as rt:
        np.testing.assert_array_equal([np.from_dlpack(OnHost(frame)) for frame in found], rt(clip))
    assert found[0].__dlpack_device__() == (2, 0)
    assert found[0].__cuda_array_interface__["stream"] == host_gpu.streams[0].handle
    # No frame crossed the bus.
    assert host_gpu.locked == {}
    del found
    backend.close()
    gc.collect()
    assert host_gpu.used == {}


class OnHost:
    """A frame as NumPy and torch without CUDA see it: as memory of the CPU."""

    def __init__(self, frame: DeviceFrame) -> None:
        self._frame = frame

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __dlpack__(self, **options: Any) -> Any:
        return self._frame.__dlpack__(stream=None)


def test_torch_reads_a_frame_where_it_is(tiny_bundle: Path, host_backend: Open, host_gpu: Any) -> None:
    backend = host_backend(tiny_bundle, host_gpu)
    (frame,) = restore(backend, [clip_of(1)[0]], to="device")
    host_gpu.streams[0].synchronize()
    tensor = torch.utils.dlpack.from_dlpack(OnHost(frame))
    assert tensor.data_ptr() == frame.__cuda_array_interface__["data"][0]
    assert (tuple(tensor.shape), tensor.dtype) == (frame.shape, torch.uint8)


@pytest.mark.parametrize(("to", "kind"), [("host", np.ndarray), ("device", DeviceFrame), (None, DeviceFrame)])
def test_outputs_go_where_they_are_asked_to(
    to: Any, kind: type, tiny_bundle: Path, host_backend: Open, host_gpu: Any
) -> None:
    backend = host_backend(tiny_bundle, host_gpu)
    found = restore(backend, map(GpuArray, clip_of(5)), to=to, ahead=2)
    assert {type(frame) for frame in found} == {kind}
    backend.close()


def test_the_reader_s_stream_waits_for_the_frame(tiny_bundle: Path, host_backend: Open, host_gpu: Any) -> None:
    host_gpu.delays = [0.02]
    backend = host_backend(tiny_bundle, host_gpu)
    (frame,) = restore(backend, [clip_of(1)[0]], to="device")
    reader = host_gpu.stream()
    seen = np.zeros(frame.shape, frame.dtype)
    frame.__dlpack__(stream=reader.handle)
    reader.copy_out(seen, frame.__cuda_array_interface__["data"][0])
    reader.synchronize()
    with Runtime(tiny_bundle, threads=1) as rt:
        np.testing.assert_array_equal(seen, rt(clip_of(1))[0])
    backend.close()


def test_adopted_frames_may_be_overwritten_when_the_next_one_is_asked_for(
    tiny_bundle: Path, host_backend: Open, host_gpu: Any
) -> None:
    host_gpu.delays = [0.002]
    backend = host_backend(tiny_bundle, host_gpu)
    clip = clip_of(6)
    buffer = np.empty_like(clip[0])

    def decoder() -> Any:
        for frame in clip:
            buffer[:] = frame  # at once, without waiting for the stream
            yield GpuArray(buffer)

    found = restore(backend, decoder(), to="host")
    with Runtime(tiny_bundle, threads=1) as rt:
        np.testing.assert_array_equal(np.stack(found), rt(clip))
    backend.close()


def test_a_dropped_frame_s_memory_is_reused_after_its_readers(
    tiny_bundle: Path, host_backend: Open, host_gpu: Any
) -> None:
    backend = host_backend(tiny_bundle, host_gpu)
    with Runtime(tiny_bundle, threads=1) as rt:
        expected = rt(clip_of(1))[0]
    for ordered in (True, False):
        (frame,) = restore(backend, [clip_of(1)[0]], to="device")
        reader = host_gpu.stream()
        frame.__dlpack__(stream=reader.handle)
        reader.delay = 0.1
        seen = np.zeros(frame.shape, frame.dtype)
        reader.copy_out(seen, frame.__cuda_array_interface__["data"][0])
        if not ordered:
            frame._readers.clear()
        del frame
        restore(backend, np.full((3, 6, 9, 3), 9, np.uint8))  # reuses the frame's memory
        reader.synchronize()
        assert np.array_equal(seen, expected) == ordered
    backend.close()


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_neither_dropped_nor_adopted_frames_synchronize(
    cuda_graphs: bool, tiny_bundle: Path, host_backend: Open, host_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = clip_of(6)
    backend = host_backend(tiny_bundle, host_gpu, cuda_graphs=cuda_graphs)
    restore(backend, map(GpuArray, clip))  # allocates, and frees what is idle
    reader = host_gpu.stream()
    stalled: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(type(reader), "synchronize", stalled.append)
        for frame in stream(backend, map(GpuArray, clip), network=NetworkConfig(), window=4, overlap=1):
            frame.__dlpack__(stream=reader.handle)
            del frame
        gc.collect()
    assert stalled == []
    assert not hasattr(cuda.Gpu, "synchronize")
    backend.close()
    gc.collect()
    assert host_gpu.used == {}


def test_a_frame_outlives_its_runtime(tiny_bundle: Path, host_backend: Open, host_gpu: Any) -> None:
    backend = host_backend(tiny_bundle, host_gpu)
    (frame,) = restore(backend, clip_of(1), to="device")
    backend.close()
    assert frame.__cuda_array_interface__["stream"] is None
    with Runtime(tiny_bundle, threads=1) as rt:
        np.testing.assert_array_equal(np.from_dlpack(OnHost(frame)), rt(clip_of(1))[0])
    assert repr(frame) == "<DeviceFrame 36x24 uint8 on cuda:0>"
    assert len(host_gpu.used) == 1
    del frame
    gc.collect()
    assert host_gpu.used == {}


def test_the_caller_s_stream_is_computed_on_and_left_open(tiny_bundle: Path, host_backend: Open, host_gpu: Any) -> None:
    own = host_gpu.stream()
    clip = np.zeros((3, 6, 9, 3), np.uint8)
    backend = host_backend(tiny_bundle, host_gpu, cuda_stream=own.handle)
    own.delay = 0.002
    for frame in clip:
        own.copy_in(frame.ctypes.data, np.full(frame.shape, 90, np.uint8))
    found = restore(backend, map(GpuArray, clip), to="host")
    backend.close()
    with Runtime(tiny_bundle, threads=1) as rt:
        np.testing.assert_array_equal(np.stack(found), rt(np.full_like(clip, 90)))
    own.synchronize()  # it still works


def test_the_cut_function_gets_the_caller_s_own_frames(tiny_bundle: Path, host_backend: Open, host_gpu: Any) -> None:
    backend = host_backend(tiny_bundle, host_gpu)
    clip = clip_of(5)
    asked = []

    def is_cut(before: GpuArray, after: GpuArray) -> bool:
        asked.append((before, after))
        return len(asked) == 3

    frames = [GpuArray(frame) for frame in clip]
    found = restore(backend, frames, to="host", cuts=is_cut)
    assert asked == list(pairwise(frames))
    with Runtime(tiny_bundle, threads=1) as rt:
        np.testing.assert_array_equal(np.stack(found), rt(clip, cuts=[3]))
    backend.close()


@pytest.mark.parametrize(
    ("frames", "to", "message"),
    [
        ([GpuArray(clip_of(1, "uint16")[0])], None, "takes no 16-bit integers from the GPU"),
        (clip_of(1, "uint16"), "device", "leaves no 16-bit integers in the GPU"),
        ([GpuArray(clip_of(1)[0, 0])], None, r"frame 0 has the shape \(9, 3\)"),
        ([GpuArray(clip_of(1)[0]), GpuArray(clip_of(1)[0][:5])], None, "frame 1 is 9x5 uint8, the frames before"),
        ([b"frame"], None, r"frame 0 is a bytes; give arrays \(height, width, 3\)"),
    ],
)
def test_invalid_frames_are_rejected(
    frames: Any, to: Any, message: str, tiny_bundle: Path, host_backend: Open, host_gpu: Any
) -> None:
    backend = host_backend(tiny_bundle, host_gpu)
    with pytest.raises(FrameError, match=message):
        restore(backend, frames, to=to)
    backend.close()


def test_a_runtime_on_the_cpu_refuses_what_needs_a_gpu(tiny_bundle: Path) -> None:
    with Runtime(tiny_bundle, threads=1) as rt:
        with pytest.raises(FrameError, match=r"this Runtime is on the CPU; leave out to='device'"):
            list(rt.stream(clip_of(2), to="device"))
        with pytest.raises(ArgumentError, match="can't go to 'gpu'; choose host or device"):
            rt.stream(clip_of(2), to="gpu")  # type: ignore[call-overload]
        with pytest.raises(FrameError, match=r"frame 0 is in GPU memory.*bring it to the host"):
            list(rt.stream([OnGpu()]))
        np.testing.assert_array_equal(np.stack(list(rt.stream(clip_of(3), live=True, to="host"))), rt(clip_of(3)))
    with (
        Runtime(tiny_bundle, threads=1, tile="100x100") as rt,
        pytest.raises(ArgumentError, match="joined on the host"),
    ):
        rt.stream(clip_of(2), to="device")


class OnGpu:
    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)


def test_frames_with_gaps_are_rejected() -> None:
    cuda._check_strides((6, 9, 3), (27, 3, 1))
    cuda._check_strides((1, 9, 3), (999, 3, 1))
    with pytest.raises(FrameError, match=r"shape \(6, 9, 3\) has the strides \(9, 1, 54\).*permute"):
        cuda._check_strides((6, 9, 3), (9, 1, 54))


def test_the_functions_of_cuda_python_that_are_called_exist() -> None:
    runtime = module("cuda.bindings.runtime", "cuda-python", "pip install cuda-python")
    source = Path(cuda.__file__).read_text()
    called = set(re.findall(r"\b(cuda[A-Z]\w+)", source)) - {"cudaErrorMemoryAllocation"}
    missing = [
        name
        for name in called
        if not hasattr(runtime, name)
        and not hasattr(runtime.cudaError_t, name)
        and not hasattr(runtime.cudaMemcpyKind, name)
        and not hasattr(runtime.cudaStreamCaptureMode, name)
    ]
    assert missing == []
    assert int(runtime.cudaStream_t(77)) == 77


def test_arrays_on_another_device_are_rejected() -> None:
    module("cuda.core", "cuda-python", "pip install cuda-core")
    gpu = object.__new__(cuda.Gpu)
    gpu.index = 0

    no_stream = object.__new__(cuda.Stream)
    no_stream.handle = -1
    with pytest.raises(FrameError, match="bring it to cuda:0"):
        gpu.view(np.zeros((2, 2, 3), np.uint8), no_stream)


@pytest.mark.gpu
@pytest.mark.parametrize("borrowed", [False, True])
def test_torch_s_frames_stay_on_the_gpu(borrowed: bool, gpu: cuda.Gpu, tiny_bundle: Path) -> None:
    cuda_provider()
    torch_cuda()
    clip = clip_of(6)
    stream = torch.cuda.Stream()
    handle = stream.cuda_stream if borrowed else None
    with (
        Runtime(tiny_bundle) as cpu,
        Runtime(tiny_bundle, device="cuda:0", backend="onnxruntime", cuda_stream=handle) as rt,
        torch.cuda.stream(stream),
    ):
        frames = list(rt.stream(torch.from_numpy(frame).cuda() for frame in clip))
        tensors = [torch.utils.dlpack.from_dlpack(frame) for frame in frames]
        assert isinstance(frames[0], DeviceFrame)
        assert tensors[0].data_ptr() == frames[0].__cuda_array_interface__["data"][0]
        found = np.stack([tensor.cpu().numpy() for tensor in tensors])
        np.testing.assert_allclose(found.astype(int), cpu(clip).astype(int), atol=1)
        with pytest.raises(FrameError, match="contiguous"):
            list(rt.stream([torch.zeros(3, 6, 9, dtype=torch.uint8, device="cuda").permute(1, 2, 0)]))
