"""Check which parts of zsm work on this machine, and how to fix the rest."""

import importlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import zsm
from zsm import plugins
from zsm.engine.backends.gpu import cuda
from zsm.engine.backends.tensorrt import bindings as trt
from zsm.engine.diagnose import machine
from zsm.errors import Error
from zsm.files import cache_folder
from zsm.plugins.native import Core


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check."""

    name: str
    works: bool
    found: str
    fix: str = ""
    """How to make it work."""
    needed: bool = False
    """Whether `zsm run` on the CPU needs it."""


def examine() -> list[Check]:
    """Run all checks; takes a second or two."""
    return [check for look in _LOOKS for check in look()]


def _basics() -> Iterator[Check]:
    about = machine.describe()
    yield Check(name="zsm", works=True, found=f"{zsm.__version__}, Python {about['python']}, {about['system']}")
    yield Check(name="processor", works=True, found=f"{about['cpu']}, {about['cores']} cores")
    yield _attempt("cache", lambda: str(cache_folder()), "set ZSM_CACHE to a folder that may be written to")


def _package(module: str, distribution: str, extra: str, use: str, *, needed: bool = False) -> Check:
    fix = f"for {use}: pip install 'zsm[{extra}]'"
    if importlib.util.find_spec(module) is None:
        return Check(name=distribution, works=False, found="not installed", fix=fix, needed=needed)
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken installation can raise anything; report it
        return Check(name=distribution, works=False, found=f"can't be imported: {error}", fix=fix, needed=needed)
    return Check(name=distribution, works=True, found=_version(distribution), needed=needed)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "version unknown"


def _packages() -> Iterator[Check]:
    yield _package("av", "av", "video", "video files", needed=True)
    yield _package("cv2", "opencv-python-headless", "video", "image folders", needed=True)
    yield _package("scenedetect", "scenedetect-headless", "video", "finding cuts", needed=True)
    yield _package("ray", "ray", "cluster", "films on many machines")
    yield _package("torch", "torch", "export", "exporting")
    yield _package("onnxscript", "onnxscript", "export", "exporting")
    yield _package("tensorboard", "tensorboard", "train", "training")


def _onnxruntime() -> Iterator[Check]:
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name) != "version unknown"]
    if len(both) == 2:
        yield Check(
            name="onnxruntime",
            works=False,
            found="onnxruntime and onnxruntime-gpu are both installed and overwrite each other",
            fix="pip uninstall onnxruntime onnxruntime-gpu, then pip install 'zsm[cpu]' or 'zsm[gpu]'",
            needed=True,
        )
        return
    # OpenVINO does instead if ONNX Runtime is absent, but not if it is broken.
    needed = bool(importlib.util.find_spec("onnxruntime")) or not importlib.util.find_spec("openvino")
    use = "running anything" if needed else "--backend onnxruntime"
    check = _package("onnxruntime", both[0] if both else "onnxruntime", "cpu", use, needed=needed)
    yield check
    if check.works:
        import onnxruntime

        for provider in onnxruntime.get_available_providers():
            yield Check(name=f"  {provider}", works=True, found="available")


def _openvino() -> Iterator[Check]:
    check = _package("openvino", "openvino", "openvino", "--backend openvino")
    yield check
    if check.works:
        import openvino

        core = openvino.Core()
        for device in core.available_devices:
            yield Check(name=f"  {device}", works=True, found=str(core.get_property(device, "FULL_DEVICE_NAME")))


def _driver() -> Iterator[Check]:
    command = shutil.which("nvidia-smi")
    fix = "only needed for --device cuda: install NVIDIA's driver"
    if command is None:
        yield Check(name="NVIDIA driver", works=False, found="nvidia-smi not found", fix=fix)
        return
    query = [command, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Check(name="NVIDIA driver", works=False, found=str(error), fix=fix)
        return
    if answer.returncode:
        yield Check(name="NVIDIA driver", works=False, found=(answer.stdout + answer.stderr).strip(), fix=fix)
        return
    for number, line in enumerate(answer.stdout.splitlines()):
        yield Check(name=f"cuda:{number}", works=True, found=line)


def _attempt(name: str, what: Callable[[], str], fix: str) -> Check:
    """A check that passes if `what` returns; the finding is its result, or the message of its error."""
    try:
        return Check(name=name, works=True, found=what())
    except Error as error:
        return Check(name=name, works=False, found=str(error), fix=fix)


def _cuda() -> Iterator[Check]:
    def devices() -> str:
        count = cuda.device_count()
        if not count:
            raise Error("no GPU")
        about = (cuda.Gpu(index) for index in range(count))
        return ", ".join(f"cuda:{gpu.index} {gpu.name}, compute capability {gpu.capability}" for gpu in about)

    yield _attempt("cuda-python", devices, "only needed for --device cuda: pip install 'zsm[gpu]', and NVIDIA's driver")
    name = "CUDAExecutionProvider"
    fix = "for GPUs without TensorRT: pip uninstall onnxruntime, then pip install 'zsm[gpu]'"
    yield Check(name=f"ONNX Runtime {name}", works=_has_provider(name), found=_provider_state(name), fix=fix)


def _has_provider(name: str) -> bool:
    try:
        return name in importlib.import_module("onnxruntime").get_available_providers()
    except Exception:  # reported by the check of onnxruntime itself
        return False


def _provider_state(name: str) -> str:
    return "available" if _has_provider(name) else "absent"


def _tensorrt() -> Iterator[Check]:
    def version() -> str:
        return str(trt.tensorrt().__version__)

    check = _attempt("TensorRT", version, "only needed for --backend tensorrt")
    yield check
    majors = [check.found.split(".")[0]] if check.works else [str(major) for major in trt.MAJORS]
    for major in majors:
        yield _library(f"tensorrt{major}", f"TensorRT {major}")


def _library(name: str, use: str) -> Check:
    fix = f"only needed for {use}: build it as in docs/profiling.md, or set ZSM_PLUGIN_DIR"

    def found() -> str:
        path = plugins.library(name)
        if path is None:
            raise Error("not built")
        return f"{path}, {_architectures(path)}"

    return _attempt(f"libzsm_{name}.so", found, fix)


def _architectures(path: Path) -> str:
    known = Core(path).cuda_architectures()
    return f"CUDA code for {', '.join(known)}" if known else "no CUDA code"


def _native() -> Iterator[Check]:
    yield _library("onnxruntime", "a faster ONNX Runtime on CPUs")
    yield _library("core", "a faster OpenVINO on CPUs")


_LOOKS: tuple[Callable[[], Iterator[Check]], ...] = (
    _basics,
    _onnxruntime,
    _openvino,
    _packages,
    _native,
    _driver,
    _cuda,
    _tensorrt,
)
