"""Builds stand-ins for CUDA's libraries and cuDNN from the names that ONNX Runtime's provider imports or looks up.

cudart.c and cudnn.c have what the provider can't do without. Every other function writes its name to a journal and
succeeds.
"""

import ctypes
import re
import subprocess
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

DRIVER = "libcuda.so.1"
RUNTIME = "cu13/lib/libcudart.so.13"
CUDNN = "cudnn/lib/libcudnn.so.9"
CUFFT = "cu13/lib/libcufft.so.12"
LIBRARIES = (
    RUNTIME,
    CUDNN,
    CUFFT,
    "cu13/lib/libcublas.so.13",
    "cu13/lib/libcublasLt.so.13",
    "cu13/lib/libcurand.so.10",
    "cu13/lib/libnvrtc.so.13",
)
"""As NVIDIA's packages place them, below site-packages/nvidia."""
SOURCES = {RUNTIME: "cudart.c", CUDNN: "cudnn.c"}

_FUNCTION = """
__attribute__((weak)) long {name}(void** first, void* second) {{
  zsm_write("{name} %p", second);
  {effect}
  return 0;
}}
"""


def build(provider: Path, nvidia: Path, driver: Path) -> None:
    """Write the libraries below the folder `nvidia`, and the driver's into the folder `driver`."""
    names = _names(provider)
    runtime = nvidia / RUNTIME
    for library in LIBRARIES:
        _compile(nvidia / library, names[Path(library).name], runtime, SOURCES.get(library))
    _compile(driver / DRIVER, names[DRIVER], runtime)


def _names(provider: Path) -> dict[str, set[str]]:
    """The functions that the provider needs, by library; cuDNN's and cuFFT's it looks up by name."""
    found: dict[str, set[str]] = defaultdict(set)
    listing = subprocess.run(["nm", "-D", "--undefined-only", provider], text=True, capture_output=True, check=True)
    for name, library in re.findall(r" U (cu\w+|__cuda\w+)(?:@(\S+))?$", listing.stdout, re.M):
        found[library or DRIVER].add(name)
    content = provider.read_bytes()
    for library, prefix in ((CUDNN, b"cudnn"), (CUFFT, b"cufft")):
        names = re.findall(rb"\0(" + prefix + rb"[A-Z]\w+)(?=\0)", content)
        found[Path(library).name] = {name.decode() for name in names}
    return found


def _compile(library: Path, names: set[str], runtime: Path, source: str | None = None) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    functions = (
        _FUNCTION.format(name=name, effect="*first = first;" if "Create" in name else "") for name in sorted(names)
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rest.c").write_text("void zsm_write(const char*, ...);\n" + "".join(functions))
        (folder / "versions").write_text(f"{library.name} {{ global: *; }};\n")
        command: list[str | Path] = [
            "nvcc",
            "-shared",
            "-cudart",
            "none",
            "-Xcompiler",
            "-fPIC",
            folder / "rest.c",
            "-o",
            library,
        ]
        command += ["-Xlinker", f"-soname={library.name},--version-script={folder / 'versions'}"]
        if source:
            command += [Path(__file__).with_name(source)]
        if library != runtime:
            command += ["-Xlinker", f"{runtime},-rpath={runtime.parent}"]
        subprocess.run(command, check=True)


@dataclass(frozen=True)
class Call:
    """A call of a library's function, on a stream; the rest as cudart.c writes it."""

    function: str
    stream: int
    rest: tuple[str, ...]


class Journal:
    """What the libraries were asked for."""

    def __init__(self, runtime: Path) -> None:
        self._library = ctypes.CDLL(str(runtime))
        self._library.zsm_take.restype = ctypes.c_void_p

    def take(self) -> list[Call]:
        """The calls since the last time."""
        address = self._library.zsm_take()
        lines = ctypes.string_at(address).decode().splitlines()
        self._library.zsm_free(ctypes.c_void_p(address))
        calls = []
        for line in lines:
            function, stream, *rest = line.split()
            calls.append(Call(function, int(stream, 16) if stream.startswith("0x") else 0, tuple(rest)))
        return calls
