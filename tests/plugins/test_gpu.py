"""The CUDA kernels on a GPU, against the float64 reference."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tests.needs import Need, cuda_provider, missing, module

from zsm.engine import Bundle, Runtime
from zsm.engine.bundle.shapes import Size
from zsm.engine.diagnose.verify import verify
from zsm.plugins.native import Array, Attributes, Core, Kernel, Shape, Tensors

pytestmark = pytest.mark.gpu

ZSM = Attributes(offset_group=8)
TOLERANCE = {"float32": 1e-5, "float16": 2e-3}
HEADERS: dict[str, Need] = {"tensorrt": "tensorrt-headers", "onnxruntime": "onnxruntime-headers"}
"""What the plugin for each backend is built with."""


@pytest.fixture(scope="module")
def cuda() -> ModuleType:
    """CUDA's runtime, on a machine with a GPU."""
    runtime: ModuleType = module("cuda.bindings.runtime", "cuda-python", "pip install cuda-python")
    error, count = runtime.cudaGetDeviceCount()
    if error != runtime.cudaError_t.cudaSuccess or not count:
        missing("gpu", "there is no NVIDIA GPU, or its driver is missing or too old")
    if not shutil.which("nvcc"):
        missing("nvcc", "nvcc is not installed, so the CUDA kernels aren't built")
    return runtime


@pytest.fixture(scope="module")
def gpu_build(cuda: ModuleType, build: Callable[[str], Path]) -> Path:
    return build("gpu")


@pytest.fixture(scope="module")
def gpu_core(gpu_build: Path) -> Core:
    return Core(gpu_build / "lib" / "libzsm_core.so")


class Device:
    """Memory on the GPU, freed at the end."""

    def __init__(self, cuda: ModuleType) -> None:
        self._cuda = cuda
        self._stack = ExitStack()

    def check(self, result: tuple[Any, ...]) -> Any:
        error, *values = result
        assert error == self._cuda.cudaError_t.cudaSuccess, error
        return values[0] if values else None

    def upload(self, tensor: Array) -> int:
        address = int(self.check(self._cuda.cudaMalloc(tensor.nbytes)))
        self._stack.callback(self._cuda.cudaFree, address)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.check(self._cuda.cudaMemcpy(address, tensor.ctypes.data, tensor.nbytes, kind))
        return address

    def download(self, address: int, like: Array) -> Array:
        result = np.empty_like(like)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.check(self._cuda.cudaMemcpy(result.ctypes.data, address, result.nbytes, kind))
        return result

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def device(cuda: ModuleType) -> Iterator[Device]:
    device = Device(cuda)
    yield device
    device.close()


def random_tensors(seed: int, batch: int, height: int, width: int, dtype: str) -> tuple[Array, ...]:
    """x, offset_mask, weight, bias of the network's operator. Large ones repeat a million random values."""
    rng = np.random.default_rng(seed)

    def tensor(*shape: int, scale: float = 1) -> Array:
        values = (rng.standard_normal(min(int(np.prod(shape)), 1_000_003)) * scale).astype(dtype)
        return np.resize(values, shape)

    x, offset_mask = tensor(batch, 64, height, width), tensor(batch, 216, height, width)
    offset_mask[:, :144] *= np.asarray(3, dtype)
    return x, offset_mask, tensor(64, 64, 3, 3, scale=1 / 24), tensor(64)


def chosen_pixels(rng: np.random.Generator, batch: int, height: int, width: int) -> Array:
    """All pixels of small images; of large ones the corners, stretches of the borders, and some inside."""
    if batch * height * width <= 4096:
        return np.stack(np.unravel_index(np.arange(batch * height * width), (batch, height, width)), 1)
    n, y, x = (rng.integers(0, size, 600) for size in (batch, height, width))
    y[:100], y[100:200] = rng.choice([0, 1], 100), height - 1 - rng.choice([0, 1], 100)
    x[200:300], x[300:400] = rng.choice([0, 1], 100), width - 1 - rng.choice([0, 1], 100)
    return np.stack([n, y, x], 1)


def fits(cuda: ModuleType, tensors: tuple[Array, ...]) -> bool:
    _, free, _ = cuda.cudaMemGetInfo()
    return bool(sum(tensor.nbytes for tensor in tensors) + 3 * tensors[0].nbytes < free)


SIZES = [
    (1, 1, 1),
    (4, 3, 5),
    (3, 17, 31),
    (1, 64, 112),
    (2, 144, 180),
    (4, 270, 480),
    (1, 1080, 1920),
    (1, 2160, 3840),
    (2, 2160, 3840),  # offset_mask has more than 2^31 elements
]


@pytest.mark.parametrize("channels_last", [False, True], ids=["linear", "channels_last"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("batch", "height", "width"), SIZES)
def test_kernels(
    *,
    gpu_core: Core,
    cuda: ModuleType,
    device: Device,
    reference_at: Callable[..., Array],
    batch: int,
    height: int,
    width: int,
    dtype: str,
    channels_last: bool,
) -> None:
    seed = int.from_bytes(os.urandom(4))
    tensors = random_tensors(seed, batch, height, width, dtype)
    if not fits(cuda, tensors):
        pytest.skip("this GPU has too little memory for the size")
    pixels = chosen_pixels(np.random.default_rng(seed), batch, height, width)
    expected = reference_at(pixels, ZSM, *tensors)
    layout = (0, 2, 3, 1) if channels_last else (0, 1, 2, 3)
    x, offset_mask = (np.ascontiguousarray(tensor.transpose(layout)) for tensor in tensors[:2])
    inputs = [device.upload(tensor) for tensor in (x, offset_mask, *tensors[2:])]
    out = np.full_like(x, np.nan)
    output = device.upload(out)
    shape = Shape.of(tensors[0].shape, 64, ZSM)
    workspace = device.upload(np.full(gpu_core.cuda_workspace(shape, dtype) + 1, 0xFF, np.uint8))  # NaN
    for kernel in gpu_core.cuda_kernels(shape, dtype):
        options: dict[str, Any] = {"channels_last": channels_last, "kernel": kernel, "workspace": workspace}
        gpu_core.cuda(shape, dtype, Tensors(*inputs, output), **options)
        device.check(cuda.cudaDeviceSynchronize())
        result = device.download(output, out)
        n, y, x_ = pixels.T
        found = result[n, y, x_] if channels_last else result[n, :, y, x_]
        error = abs(found - expected).max() / abs(expected).max()
        assert error <= TOLERANCE[dtype], f"{kernel.name}, seed {seed}"


def run_program(*command: str | Path) -> None:
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_native_tests(gpu_build: Path) -> None:
    run_program(gpu_build / "bin" / "cuda_test")


def test_tensorrt_adapters_on_device_memory(gpu_build: Path) -> None:
    programs = sorted((gpu_build / "bin").glob("tensorrt*_test"))
    if not programs:
        missing("tensorrt-headers", "built without TensorRT's headers; set ZSM_TENSORRT_INCLUDE_DIRS")
    for program in programs:
        run_program(program)


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer(gpu_build: Path, tool: str) -> None:
    sanitizer = shutil.which("compute-sanitizer")
    if not sanitizer:
        missing("compute-sanitizer", "compute-sanitizer is not installed; it comes with the CUDA toolkit")
    run_program(sanitizer, "--tool", tool, "--error-exitcode", "1", gpu_build / "bin" / "cuda_test")


def need_library(gpu_build: Path, backend: str) -> None:
    if backend == "tensorrt":
        name = f"tensorrt{module('tensorrt', 'tensorrt', 'pip install tensorrt').__version__.split('.')[0]}"
    else:
        cuda_provider()
        name = "onnxruntime"
    if not (gpu_build / "lib" / f"libzsm_{name}.so").exists():
        variable = "ZSM_TENSORRT_INCLUDE_DIRS" if backend == "tensorrt" else "ZSM_ONNXRUNTIME_INCLUDE_DIR"
        missing(HEADERS[backend], f"libzsm_{name}.so was not built: no headers; set {variable}")


@pytest.mark.parametrize("backend", HEADERS)
def test_the_fused_kernel_in_a_network(
    backend: str,
    gpu_build: Path,
    gpu_core: Core,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every stage, then a window, against ONNX Runtime on the CPU."""
    need_library(gpu_build, backend)
    shape = Shape.of((1, 64, 36, 48), 64, ZSM)
    assert gpu_core.cuda_kernels(shape, "float16")[0] in (Kernel.FUSED_RESIDENT, Kernel.FUSED_STREAMED)
    bundle = Bundle(request.getfixturevalue("wide_half_bundle"))
    assert (bundle.network.width, bundle.network.deformable_groups, bundle.manifest.precision) == (64, 8, "fp16")
    monkeypatch.setenv("ZSM_PLUGIN_DIR", str(gpu_build / "lib"))
    monkeypatch.setenv("ZSM_CACHE", str(tmp_path))
    compared = list(verify(bundle, "cuda:0", backend, Size(45, 34)))
    assert [each for each in compared if not each.works] == []


def test_bundles_through_onnxruntime_gpu(gpu_build: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_library(gpu_build, "onnxruntime")
    clip = np.random.default_rng(0).random((3, 24, 32, 3), np.float32)
    with Runtime(tiny_bundle) as rt:
        expected = rt(clip)
    monkeypatch.setenv("ZSM_PLUGIN_DIR", str(gpu_build / "lib"))
    with Runtime(tiny_bundle, device="cuda:0", backend="onnxruntime") as rt:
        assert "libzsm_onnxruntime" in rt.describe()["operator"]
        assert np.abs(rt(clip) - expected).max() <= 1e-4
