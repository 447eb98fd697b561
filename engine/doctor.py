"""What of zsm works on this machine, and how to get the rest to work."""

import importlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import zsm
from zsm.engine import machine
from zsm.engine.cache import cache_folder


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    works: bool
    found: str
    fix: str = ""
    """What to do when it doesn't work."""
    needed: bool = False
    """Whether `zsm run` on the CPU needs it."""


def examine() -> list[Check]:
    """Look at everything; this takes a second or two."""
    return [check for look in _LOOKS for check in look()]


def _basics() -> Iterator[Check]:
    about = machine.describe()
    yield Check(name="zsm", works=True, found=f"{zsm.__version__}, Python {about['python']}, {about['system']}")
    yield Check(name="processor", works=True, found=f"{about['cpu']}, {about['cores']} cores")
    yield Check(name="cache", works=True, found=str(cache_folder()))


def _package(module: str, distribution: str, extra: str, use: str, *, needed: bool = False) -> Check:
    fix = f"for {use}: pip install 'zsm[{extra}]'"
    if importlib.util.find_spec(module) is None:
        return Check(name=distribution, works=False, found="not installed", fix=fix, needed=needed)
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a broken installation raises, saying so is this function's work
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
    yield _package("scenedetect", "scenedetect-headless", "video", "finding cuts")
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
    check = _package("onnxruntime", both[0] if both else "onnxruntime", "cpu", "running anything", needed=True)
    yield check
    if check.works:
        import onnxruntime

        for provider in onnxruntime.get_available_providers():
            yield Check(name=f"  {provider}", works=True, found="available")


def _gpu() -> Iterator[Check]:
    command = shutil.which("nvidia-smi")
    fix = "only needed for --device cuda: install NVIDIA's driver"
    if command is None:
        yield Check(name="NVIDIA driver", works=False, found="no nvidia-smi", fix=fix)
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


_LOOKS: tuple[Callable[[], Iterator[Check]], ...] = (_basics, _onnxruntime, _packages, _gpu)
