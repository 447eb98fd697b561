"""What the GPU report does, and what that needs."""

import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "gpu"


@dataclass(frozen=True, kw_only=True)
class Need:
    """Something that a part needs; `get` says how to get it."""

    there: Callable[[], bool]
    get: str
    made: bool = False
    """Whether an earlier part makes it."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the report: commands, and the most seconds that each may take."""

    name: str
    what: str
    commands: Sequence[Sequence[str]]
    limit: int
    needs: Sequence[str] = ()


def has_modules(*names: str) -> Callable[[], bool]:
    def found(name: str) -> bool:
        try:
            return importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:  # its parent
            return False

    return lambda: all(map(found, names))


def has_programs(*names: str) -> Callable[[], bool]:
    return lambda: all(map(shutil.which, names))


def has_built(pattern: str) -> Callable[[], bool]:
    return lambda: any(BUILD.glob(pattern))


def has_distribution(name: str) -> Callable[[], bool]:
    return lambda: any(found.name == name for found in importlib.metadata.distributions())


def has_gpu() -> bool:
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=20).stdout.startswith(b"GPU ")
    except (OSError, subprocess.TimeoutExpired):
        return False


def has_cuda_torch() -> bool:
    """Whether there is a torch for CUDA; it isn't imported, since that may fail in any way."""
    spec = importlib.util.find_spec("torch")
    version = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    return bool(version and version.is_file() and re.search(r"^cuda\b.*=.*\d", version.read_text(), re.M))


NEEDS = {
    "GPU": Need(there=has_gpu, get="an NVIDIA GPU, its driver, and nvidia-smi"),
    "nvcc": Need(there=has_programs("nvcc"), get="the CUDA toolkit, with nvcc on the search path"),
    "cmake": Need(there=has_programs("cmake", "ninja"), get="pip install cmake ninja"),
    "torch": Need(there=has_cuda_torch, get="pip install torch (with CUDA)"),
    "torchvision": Need(there=has_modules("torchvision"), get="pip install torchvision"),
    "zsm's packages": Need(
        there=has_modules("filelock", "msgspec", "numpy", "onnx", "platformdirs", "rich"), get="pip install -e ."
    ),
    "the exporter": Need(
        there=has_modules("onnxscript", "safetensors", "torch"), get="pip install onnxscript safetensors"
    ),
    "onnxruntime-gpu": Need(
        there=has_distribution("onnxruntime-gpu"),
        get="pip uninstall onnxruntime; pip install 'onnxruntime-gpu[cuda,cudnn]'",
    ),
    "cuda-python": Need(there=has_modules("cuda.bindings", "cuda.core"), get="pip install cuda-python cuda-core"),
    "TensorRT": Need(there=has_modules("tensorrt"), get="pip install tensorrt"),
    "trtexec": Need(there=has_programs("trtexec"), get="TensorRT's trtexec on the search path"),
    "compute-sanitizer": Need(there=has_programs("compute-sanitizer"), get="the CUDA toolkit's compute-sanitizer"),
    "pytest": Need(there=has_modules("pytest", "filelock", "onnxscript"), get="pip install -e '.[dev]'"),
    "the kernels": Need(there=has_built("lib/libzsm_core.so"), get="the part 'build'", made=True),
    "the operator for ONNX Runtime": Need(
        there=has_built("lib/libzsm_onnxruntime.so"),
        get="ONNX Runtime's headers, in ZSM_ONNXRUNTIME_INCLUDE_DIR, and the part 'build'",
        made=True,
    ),
    "the plugin": Need(
        there=has_built("lib/libzsm_tensorrt*.so"),
        get="TensorRT's headers, in ZSM_TENSORRT_INCLUDE_DIRS, and the part 'build'",
        made=True,
    ),
}


def parts(folder: Path, *, long: bool) -> list[Part]:
    """The report's parts, most valuable first. `folder` is for files that only they need."""
    python, bundle = sys.executable, folder / "bundle"
    configure = ["cmake", "--preset", "gpu"]
    configure += [
        f"-D{name}={os.environ[variable].replace(':', ';')}"
        for name, variable in (
            ("TensorRT_INCLUDE_DIR", "ZSM_TENSORRT_INCLUDE_DIRS"),
            ("onnxruntime_INCLUDE_DIR", "ZSM_ONNXRUNTIME_INCLUDE_DIR"),
        )
        if os.environ.get(variable)
    ]

    def operator(*arguments: str) -> list[str]:
        command = [python, "benchmarks/deform_conv.py", "--device", "cuda", "--lines"]
        return [*command, "--out", str(folder / "operator.json"), *arguments]

    def network(*contestants: str, sizes: Sequence[str] = ("480x270",)) -> list[str]:
        command = [python, "benchmarks/gpu.py", "--lines", "--rounds", "3", "--bundle", str(bundle), "--sizes", *sizes]
        return [*command, "--out", str(folder / "network.json"), "--contestants", *contestants]

    def in_torch(*contestants: str) -> list[str]:
        return [python, "benchmarks/pytorch.py", "--contestants", *contestants]

    def verify(backend: str) -> list[str]:
        zsm = "import sys; from zsm.cli import main; sys.exit(main(sys.argv[1:]))"
        return [python, "-c", zsm, "verify", str(bundle), "--device", "cuda:0", "--backend", backend]

    kernels = ("GPU", "torch", "the kernels")
    onnxruntime = ("GPU", "zsm's packages", "the exporter", "onnxruntime-gpu", "cuda-python")
    tensorrt = ("GPU", "zsm's packages", "the exporter", "TensorRT", "cuda-python", "the plugin")
    found = [
        Part(
            name="machine",
            what="GPU, driver, versions, bandwidth",
            commands=[[python, "scripts/gpu_machine.py"]],
            limit=60,
        ),
        Part(
            name="build",
            what="libraries, native tests and benchmark kernels for this GPU",
            commands=[["sh", "-c", f"{shlex.join(configure)} && cmake --build --preset gpu"]],
            limit=240,
            needs=["GPU", "nvcc", "cmake"],
        ),
        Part(
            name="correctness",
            what="every kernel against the CPU",
            commands=[[str(BUILD / "bin" / "cuda_test")]],
            limit=60,
            needs=["GPU", "the kernels"],
        ),
        Part(
            name="operator",
            what="the operator in FP16 at 480x270: ours, its sampling alone, torchvision's, im2col + cuBLAS",
            commands=[operator("--size", "480x270", "--dtype", "float16")],
            limit=90,
            needs=kernels,
        ),
        Part(
            name="network in torch",
            what="the network in FP16 at 480x270, in torch with our kernel",
            commands=[in_torch("fused-graph", "fused")],
            limit=90,
            needs=kernels,
        ),
        Part(
            name="network in torchvision",
            what="the same with torchvision's operator",
            commands=[in_torch("torchvision")],
            limit=60,
            needs=["GPU", "torch", "torchvision"],
        ),
        Part(
            name="ONNX Runtime",
            what="the network on ONNX Runtime CUDA with our kernel",
            commands=[network("onnxruntime")],
            limit=150,
            needs=[*onnxruntime, "the operator for ONNX Runtime"],
        ),
        Part(
            name="ONNX Runtime alone",
            what="the network on ONNX Runtime CUDA without our kernel",
            commands=[network("onnxruntime-plain")],
            limit=90,
            needs=onnxruntime,
        ),
        Part(
            name="TensorRT",
            what="the network on TensorRT",
            commands=[network("tensorrt")],
            limit=240,
            needs=tensorrt,
        ),
        Part(
            name="trtexec",
            what="each stage of the network in trtexec",
            commands=[[python, "benchmarks/trtexec.py", str(bundle)]],
            limit=150,
            needs=[*tensorrt, "trtexec"],
        ),
        Part(
            name="verify ONNX Runtime",
            what="every stage on ONNX Runtime CUDA against the CPU",
            commands=[verify("onnxruntime")],
            limit=90,
            needs=onnxruntime,
        ),
        Part(
            name="verify TensorRT",
            what="every stage on TensorRT against the CPU",
            commands=[verify("tensorrt")],
            limit=90,
            needs=tensorrt,
        ),
        Part(
            name="operator, other sizes",
            what="the operator in FP16 and FP32, 112x64 to 960x540",
            commands=[operator()],
            limit=180,
            needs=kernels,
        ),
    ]
    if long:
        sanitizer = ["compute-sanitizer", "--error-exitcode", "1", "--tool"]
        program = str(BUILD / "bin" / "cuda_test")
        found += [
            Part(
                name="sanitizers",
                what="the kernels under compute-sanitizer",
                commands=[[*sanitizer, "memcheck", program], [*sanitizer, "racecheck", program]],
                limit=900,
                needs=["GPU", "the kernels", "compute-sanitizer"],
            ),
            Part(
                name="tests",
                what="pytest -m gpu, 4K included",
                commands=[[python, "-m", "pytest", "-m", "gpu", "-ra"]],
                limit=1500,
                needs=["GPU", "nvcc", "pytest"],
            ),
            Part(
                name="operator, 4K",
                what="the operator in FP16 at 3840x2160",
                commands=[operator("--size", "3840x2160", "--dtype", "float16", "--rounds", "5")],
                limit=300,
                needs=kernels,
            ),
            Part(
                name="network, other sizes",
                what="the network at 112x64 and 180x144, with and without overlapped copies",
                commands=[network("onnxruntime", "onnxruntime-live", sizes=("112x64", "180x144", "480x270"))],
                limit=300,
                needs=[*onnxruntime, "the operator for ONNX Runtime"],
            ),
            Part(
                name="compiler",
                what="the kernels' machine code for all architectures",
                commands=[[python, "scripts/kernel_report.py"]],
                limit=900,
                needs=["nvcc"],
            ),
        ]
    return found
