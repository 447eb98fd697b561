"""ONNX Runtime on our memory and stream. All of it but the provider's name and settings also runs on the CPU."""

import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from tests.needs import cuda_provider

from zsm.engine import Bundle, Runtime
from zsm.engine.backends.gpu.backend import DeviceBackend
from zsm.engine.backends.gpu.cuda import Gpu, Stream
from zsm.engine.backends.gpu.onnxruntime import OrtCompiler, load_cuda, on_host
from zsm.engine.devices import Device
from zsm.errors import BackendError
from zsm.runtime.stream import stream

Open = Callable[[Path], DeviceBackend]
ROOT = Path(__file__).resolve().parents[2]


def compiler(bundle: Bundle, compute: Stream) -> OrtCompiler:
    return OrtCompiler(bundle, Device(kind="cpu"), compute, 1, "CPUExecutionProvider", {})


@pytest.fixture
def open_backend(host_gpu: Any) -> Open:
    """Opens a bundle on a device whose stream works synchronously, as the CPU provider does."""

    def opened(path: Path) -> DeviceBackend:
        compute = host_gpu.stream()
        compute.eager = True
        return DeviceBackend(host_gpu, compute, compiler(Bundle(path), compute))

    return opened


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("fixture", ["tiny_bundle", "bicubic_bundle"])
def test_outputs_equal_those_of_the_cpu_backend(
    fixture: str, dtype: str, open_backend: Open, host_gpu: Any, request: pytest.FixtureRequest
) -> None:
    bundle = request.getfixturevalue(fixture)
    white = {"float32": 1, "uint8": 255, "uint16": 65535}[dtype]
    clip = (np.random.default_rng(0).random((6, 6, 9, 3), np.float32) * white).astype(dtype)
    backend = open_backend(bundle)
    found = np.stack(list(stream(backend, clip, network=Bundle(bundle).network, window=4, overlap=1)))
    backend.close()
    with Runtime(bundle, threads=1) as rt:
        np.testing.assert_array_equal(found, rt(clip))
    assert host_gpu.used == host_gpu.locked == {}


def test_a_failing_stage_is_named_with_its_shapes(tiny_bundle: Path, open_backend: Open) -> None:
    backend = open_backend(tiny_bundle)
    session = backend.open(4, 4)
    planes = session.from_host(np.zeros((1, 5, 4, 4), np.float32))
    with pytest.raises(BackendError, match=r"stage extract failed on planes \(1, 5, 4, 4\)"):
        session.run("extract", {"planes": planes})
    del planes
    backend.close()


def test_a_stage_on_the_cpu_is_noticed(tiny_bundle: Path, host_gpu: Any) -> None:
    """tests/engine/cuda_provider has stages that are partly on the CPU."""
    bundle = Bundle(tiny_bundle)
    opened = compiler(bundle, host_gpu.stream())
    session, model = opened._sessions["propagate"], onnx.load_from_string(bundle.read("propagate"))
    assert on_host(session, model, "CPUExecutionProvider") == set()
    assert {"Conv", "DeformConv2d", "Resize"} <= on_host(session, model, "CUDAExecutionProvider")


def test_cuda_libraries_that_are_absent_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime prints what it can't load, which must not end up in a video on standard output."""
    monkeypatch.setattr(ort, "preload_dlls", lambda: print("Failed to load libcublas.so.13: no such file"))
    load_cuda.cache_clear()
    with pytest.raises(
        BackendError, match=r"can't load CUDA: Failed to load libcublas.so.13: .*pip install 'zsm\[gpu\]'"
    ):
        load_cuda()
    assert capsys.readouterr().out == ""


def say() -> None:
    print("a frame")


def test_what_other_threads_print_while_cuda_is_loaded_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def preload() -> None:
        other = threading.Thread(target=say)
        other.start()
        other.join()

    monkeypatch.setattr(ort, "preload_dlls", preload)
    load_cuda.cache_clear()
    load_cuda()
    assert capsys.readouterr().out == "a frame\n"


def test_without_the_provider_the_message_says_what_to_install(tiny_bundle: Path) -> None:
    with pytest.raises(BackendError, match=r"has no CUDAExecutionProvider.*cuda:0.*pip install 'zsm\[gpu\]'"):
        Runtime(tiny_bundle, device="cuda:0", backend="onnxruntime")


def test_stages_that_cannot_be_recorded_are_no_silent_fallback(tiny_bundle: Path, host_gpu: Any) -> None:
    compute = host_gpu.stream()
    with pytest.raises(BackendError, match="can't be recorded as CUDA graphs; leave out cuda_graphs"):
        DeviceBackend(host_gpu, compute, compiler(Bundle(tiny_bundle), compute), cuda_graphs=True)


def test_stages_that_nobody_closes_outlast_their_work(tiny_bundle: Path, host_gpu: Any) -> None:
    compute = host_gpu.stream()
    opened = compiler(Bundle(tiny_bundle), compute)
    extract = weakref.ref(opened._sessions["extract"])
    there: list[bool] = []
    compute.later(lambda: time.sleep(0.1))
    compute.later(lambda: there.append(extract() is not None))
    del opened
    gc.collect()
    assert there == [True]
    assert extract() is None


def test_a_program_that_ends_waits_for_work_under_way(tiny_bundle: Path) -> None:
    script = f"""if True:
        import builtins, time
        from pathlib import Path
        from tests.engine.conftest import HostGpu
        from tests.engine.test_onnxruntime_cuda import Bundle, compiler

        compute = HostGpu().stream()
        opened = builtins.kept = compiler(Bundle(Path({str(tiny_bundle)!r})), compute)  # outlives all modules
        compute.later(lambda: time.sleep(0.1))
        compute.later(lambda: print("finished", flush=True))
    """
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "finished\n"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_on_the_gpu(dtype: type[np.uint8 | np.uint16], gpu: Gpu, tiny_bundle: Path) -> None:
    cuda_provider()
    clip = np.random.default_rng(0).integers(0, 256, (6, 34, 45, 3), dtype)
    with Runtime(tiny_bundle) as cpu, Runtime(tiny_bundle, device="cuda:0", backend="onnxruntime") as rt:
        np.testing.assert_allclose(rt(clip).astype(int), cpu(clip).astype(int), atol=1)
