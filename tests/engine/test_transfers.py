"""Frames on their way: order, waits, back-pressure, failures, constant memory."""

import gc
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from zsm.engine import Bundle, NetworkConfig, Runtime
from zsm.engine.backends.gpu.backend import DeviceBackend
from zsm.engine.backends.gpu.cuda import Gpu, Stream
from zsm.engine.backends.gpu.pool import DeviceMemory
from zsm.engine.backends.gpu.tensor import Tensor
from zsm.engine.backends.gpu.transfers import RING, Downloads, Uploads
from zsm.errors import BackendError
from zsm.runtime import FrameStream
from zsm.runtime.stream import stream
from zsm.runtime.video import pipeline

Open = Callable[..., DeviceBackend]

COMPUTE, UPLOADS, DOWNLOADS = range(3)
"""Streams in the order of creation."""


def clip_of(frames: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (frames, 6, 9, 3), np.uint8)


@pytest.mark.parametrize("ahead", [0, 2, 5])
@pytest.mark.parametrize("slow", [COMPUTE, UPLOADS, DOWNLOADS])
def test_whichever_stream_is_slow_the_frames_are_the_same(
    slow: int, ahead: int, tiny_bundle: Path, host_backend: Open, host_gpu: Any
) -> None:
    host_gpu.delays = [0.002 * (slow == number) for number in range(3)]
    backend = host_backend(tiny_bundle, host_gpu)
    clip = clip_of(9)
    buffer = np.empty_like(clip[0])

    def one_buffer_for_all() -> Iterator[NDArray[np.uint8]]:
        for frame in clip:
            buffer[:] = frame
            yield buffer

    found = list(
        stream(backend, one_buffer_for_all(), network=Bundle(tiny_bundle).network, window=4, overlap=1, ahead=ahead)
    )
    backend.close()
    with Runtime(tiny_bundle, threads=1) as rt:
        np.testing.assert_array_equal(np.stack(found), rt(clip))


def test_outputs_come_while_later_ones_are_under_way(tiny_bundle: Path, host_backend: Open, host_gpu: Any) -> None:
    clip = clip_of(12)
    read: dict[int, list[int]] = {}
    for ahead in (0, 2):
        given = 0
        read[ahead] = []

        def frames() -> Iterator[NDArray[np.uint8]]:
            nonlocal given
            for frame in clip:
                given += 1
                yield frame

        backend = host_backend(tiny_bundle, host_gpu)
        for _ in stream(backend, frames(), network=Bundle(tiny_bundle).network, window=4, overlap=1, ahead=ahead):
            read[ahead].append(given)
        backend.close()
    # With two outputs under way, each comes when the second one after it would have come.
    assert read[2] == [*read[0][2:], 12, 12]


def test_a_push_returns_while_its_last_outputs_are_under_way(
    tiny_bundle: Path, host_backend: Open, host_gpu: Any
) -> None:
    clip = clip_of(9)
    backend = host_backend(tiny_bundle, host_gpu)
    streams = [FrameStream(backend, network=NetworkConfig(), window=4, overlap=1, ahead=ahead) for ahead in (0, 2)]
    live, behind = ([stream.push(frame) for frame in clip] + [stream.finish()] for stream in streams)
    backend.close()
    made = list(accumulate(map(len, live)))
    assert list(accumulate(map(len, behind))) == [*(max(0, count - 2) for count in made[:-1]), made[-1]]
    np.testing.assert_array_equal(list(chain(*behind)), list(chain(*live)))
    with Runtime(tiny_bundle, threads=1) as rt:
        np.testing.assert_array_equal(list(chain(*live)), rt(clip))


class Bytes:
    """Frames to a device and back, without stages."""

    def __init__(self, gpu: Any) -> None:
        self.gpu = gpu
        self.compute = gpu.stream()
        self.memory = DeviceMemory(gpu, self.compute)
        self.uploads = Uploads(gpu, self.compute, self.memory)
        self.downloads = Downloads(gpu, self.compute)

    def through(self, frame: NDArray[Any]) -> Callable[[], NDArray[Any]]:
        address = self.gpu.allocate(frame.nbytes)
        with self.uploads.send(frame) as sent:
            self.compute.copy(address, sent.address, frame.nbytes)
        return self.downloads.begin(Tensor(address, frame.shape, frame.dtype, None))

    def close(self) -> None:
        self.compute.synchronize()
        self.uploads.close()
        self.downloads.close()


FRAMES = [np.full((64,), number, np.uint8) for number in range(12)]

WAITS = [
    # the missing wait, the stream that is slow then, and what doesn't wait
    ("the host, for its buffer to be copied", UPLOADS, "Slot.copied"),
    ("the copy, for its target to be read", COMPUTE, UPLOADS),
    ("computing, for the copy", UPLOADS, COMPUTE),
    ("the copy, for computing", COMPUTE, DOWNLOADS),
    ("the host, for the copy", DOWNLOADS, "Slot.copied"),
]


@pytest.mark.parametrize(("what", "slow", "careless"), WAITS, ids=[wait[0] for wait in WAITS])
def test_every_wait_is_needed(
    what: str, slow: int, careless: int | str, host_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send() -> list[NDArray[Any]]:
        device = Bytes(gpu := type(host_gpu)())
        gpu.streams[slow].delay = 0.003
        if broken and isinstance(careless, int):
            monkeypatch.setattr(gpu.streams[careless], "wait", lambda event: None)
        if broken and careless == "Slot.copied":
            monkeypatch.setattr(type(gpu.event()), "synchronize", lambda event: None)
        sent = [device.through(frame) for frame in FRAMES]
        found = [there() for there in sent]
        monkeypatch.undo()
        device.close()
        return found

    broken = False
    np.testing.assert_array_equal(send(), FRAMES)
    broken = True
    assert not np.array_equal(send(), FRAMES)


def test_an_abandoned_download_keeps_its_memory_until_it_is_copied(host_gpu: Any) -> None:
    device = Bytes(host_gpu)
    host_gpu.streams[DOWNLOADS].delay = 0.05
    tensor = device.memory.new((64,), np.uint8)
    device.compute.copy_in(tensor.address, np.full(64, 7, np.uint8))
    download = device.downloads.begin(tensor)
    copied = download._host
    del tensor, download
    reused = device.memory.new((64,), np.uint8)
    device.compute.zero(reused.address, 64)
    device.compute.synchronize()
    host_gpu.streams[DOWNLOADS].synchronize()
    assert set(copied) == {7}
    device.close()


def test_the_host_gets_no_further_ahead_than_the_ring(host_gpu: Any) -> None:
    device = Bytes(host_gpu)
    go_on = threading.Event()
    device.compute.later(lambda: go_on.wait(60))
    begun: list[int] = []

    def send() -> None:
        for number, frame in enumerate(FRAMES):
            begun.append(number)
            with device.uploads.send(frame):
                pass

    sender = threading.Thread(target=send)
    sender.start()
    sender.join(1)
    assert sender.is_alive()
    # A ring of frames was copied, and another waits for the first one's memory on the device.
    assert len(begun) == 2 * RING + 1
    go_on.set()
    sender.join(60)
    assert len(begun) == len(FRAMES)
    assert len(host_gpu.locked) == RING
    device.close()
    assert host_gpu.locked == {}


def test_slots_grow_to_the_largest_frame(host_gpu: Any) -> None:
    device = Bytes(host_gpu)
    for size in (10, 500, 20, 300, 500, 7) * 5:
        frame = np.full(size, size % 251, np.uint8)
        np.testing.assert_array_equal(device.through(frame)(), frame)
    assert max(len(memory) for memory in host_gpu.locked.values()) == 500
    assert len(host_gpu.locked) == RING + 1
    device.close()
    assert host_gpu.locked == {}


@pytest.mark.parametrize("ahead", [0, 3])
def test_the_first_failure_ends_the_stream_once(
    ahead: int, tiny_bundle: Path, host_backend: Open, host_gpu: Any
) -> None:
    backend = host_backend(tiny_bundle, host_gpu)
    given = []

    def frames() -> Iterator[NDArray[np.uint8]]:
        for number, frame in enumerate(clip_of(40)):
            if number == 9:
                host_gpu.streams[COMPUTE].later(lambda: 1 / 0)
            given.append(number)
            yield frame

    outputs = stream(backend, frames(), network=Bundle(tiny_bundle).network, window=4, overlap=1, ahead=ahead)
    with pytest.raises(ZeroDivisionError):
        for _ in outputs:
            pass
    assert list(outputs) == []
    assert 9 <= given[-1] <= 13
    with pytest.raises(ZeroDivisionError):
        backend.close()
    host_gpu.errors.clear()  # their tracebacks refer to tensors
    gc.collect()
    assert host_gpu.used == host_gpu.locked == {}


def test_an_abandoned_stream_disturbs_no_other(tiny_bundle: Path, host_backend: Open, host_gpu: Any) -> None:
    host_gpu.delays = [0, 0, 0.005]
    backend = host_backend(tiny_bundle, host_gpu)
    with Runtime(tiny_bundle, threads=1) as rt:
        for _ in range(4):
            abandoned = stream(
                backend, clip_of(12)[::-1], network=Bundle(tiny_bundle).network, window=4, overlap=1, ahead=3
            )
            next(abandoned)
            del abandoned  # three outputs are on their way
            found = list(stream(backend, clip_of(5), network=Bundle(tiny_bundle).network, window=4, overlap=1, ahead=3))
            np.testing.assert_array_equal(np.stack(found), rt(clip_of(5)))
    backend.close()
    gc.collect()
    assert host_gpu.used == host_gpu.locked == {}


@pytest.mark.parametrize("taken", range(1, 8))
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_a_stream_ends_when_the_runtime_is_closed(
    cuda_graphs: bool, taken: int, tiny_bundle: Path, host_backend: Open, host_gpu: Any
) -> None:
    backend = host_backend(tiny_bundle, host_gpu, cuda_graphs=cuda_graphs)
    outputs = stream(backend, clip_of(8), network=Bundle(tiny_bundle).network, window=4, overlap=1, ahead=2)
    for _ in range(taken):
        next(outputs)
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        list(outputs)
    del outputs
    gc.collect()
    assert host_gpu.used == host_gpu.locked == {}


@pytest.mark.gpu
def test_frames_go_there_and_back_on_the_gpu(gpu: Gpu) -> None:
    device = Bytes(gpu)
    frames = [np.random.default_rng(number).integers(0, 256, (270, 480, 3), np.uint8) for number in range(20)]
    begun = [device.through(frame) for frame in frames]
    for frame, there in zip(frames, begun, strict=True):
        np.testing.assert_array_equal(there(), frame)
    device.close()


class Trivial:
    """A stage that fills its outputs with its first input's first byte."""

    def __init__(self, outputs: Mapping[str, tuple[tuple[int, ...], DTypeLike]]) -> None:
        self._outputs = dict(outputs)
        self._input = 0

    def bind(self, inputs: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], DTypeLike]]:
        self._input = next(iter(inputs.values())).address
        return self._outputs

    def enqueue(self, outputs: Mapping[str, Tensor], stream: Stream) -> None:
        for tensor in outputs.values():
            stream.copy(tensor.address, self._input, 1)


class TrivialCompiler:
    recordable = True
    uint16 = False

    def load(self, size: Any) -> dict[str, Trivial]:
        map4 = ((1, 1, 4, 4), "float32")
        pixels = ((1, 16, 16, 3), "uint8")
        return {
            "ingest_uint8": Trivial({"planes": map4}),
            "extract": Trivial({"level1": map4}),
            "interpolate": Trivial({"feature": map4}),
            "propagate": Trivial(dict.fromkeys(("next_hidden", "next_cell"), ((2, 1, 4, 4), "float32"))),
            "reconstruct": Trivial({"planes": map4}),
            "emit_uint8": Trivial({"pixels": pixels}),
        }

    def describe(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        pass


@pytest.mark.slow
def test_memory_does_not_grow_over_twenty_thousand_frames(tiny_bundle: Path, host_gpu: Any) -> None:
    count = 20_000
    compute = host_gpu.stream()
    backend = DeviceBackend(host_gpu, compute, TrivialCompiler(), cuda_graphs=True)
    for each in host_gpu.streams:
        each.eager = True
    frame = np.zeros((4, 4, 3), np.uint8)
    resident: dict[int, int] = {}
    allocations: dict[int, int] = {}
    written = 0

    def write(output: NDArray[np.uint8]) -> None:
        nonlocal written
        written += 1
        if written in (count // 10, 2 * count - 1):
            gc.collect()
            resident[written] = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            allocations[written] = host_gpu.allocations

    pipeline.run(
        (frame for _ in range(count)),
        lambda frames: stream(backend, frames, network=Bundle(tiny_bundle).network, window=2, overlap=1, ahead=2),
        write,
        pipeline.Meter(),
    )
    (early, late), (few, many) = resident.values(), allocations.values()
    assert written == 2 * count - 1
    assert many == few
    assert late - early < 2**20
    backend.close()
