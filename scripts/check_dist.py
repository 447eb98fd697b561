"""Check what the sdist and wheels in a folder contain: `python scripts/check_dist.py FOLDER [--native]`.

`--native`: the wheels carry the native libraries, as the released manylinux wheels do.
"""

import sys
import tarfile
import zipfile
from pathlib import Path

PACKAGES = ("cli", "cluster", "engine", "evaluation", "export", "hosts", "plugins", "runtime", "training")
IN_WHEEL = {
    "zsm/__init__.py",
    "zsm/errors.py",
    "zsm/py.typed",
    "zsm/models/compact/manifest.json",
    "zsm/models/compact-int8/manifest.json",
    "zsm/models/compact-video/manifest.json",
    "zsm/training/configs/paper.toml",
    *(f"zsm/{package}/__init__.py" for package in PACKAGES),
}
IN_SDIST = {"pyproject.toml", "LICENSE", "CMakeLists.txt", "plugins/core/deform_conv.h", "tests/conftest.py"}
LIBRARIES = {f"zsm/plugins/lib/libzsm_{name}.so" for name in ("core", "onnxruntime")}
NATIVE_SOURCES = {".cc", ".cu", ".cuh", ".h", ".map", ".txt"}


def wheel_problems(names: set[str], *, native: bool) -> list[str]:
    """What is missing from a wheel, or doesn't belong there."""
    package = {name for name in names if not name.split("/")[0].endswith((".dist-info", ".libs"))}
    foreign = {name for name in package if not name.startswith("zsm/") or Path(name).suffix in NATIVE_SOURCES}
    libraries = {name for name in package if name.endswith(".so")}
    expected = LIBRARIES if native else set()
    return [
        *(f"lacks {name}" for name in sorted((IN_WHEEL | expected) - names)),
        *(f"contains {name}" for name in sorted(foreign | (libraries - expected))),
    ]


def sdist_problems(names: set[str]) -> list[str]:
    """What is missing from an sdist."""
    return [f"lacks {name}" for name in sorted(IN_SDIST - {name.partition("/")[2] for name in names})]


def main(folder: Path, *, native: bool) -> str | None:
    problems = []
    files = sorted([*folder.glob("*.whl"), *folder.glob("*.tar.gz")])
    for file in files:
        if file.suffix == ".whl":
            with zipfile.ZipFile(file) as wheel:
                found = wheel_problems(set(wheel.namelist()), native=native)
        else:
            with tarfile.open(file) as sdist:
                found = sdist_problems(set(sdist.getnames()))
        problems += [f"{file.name} {problem}" for problem in found]
        print(f"{file.name}: {'wrong' if found else 'as expected'}")
    return "\n".join(problems if files else [f"no wheel or sdist in {folder}"]) or None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), native="--native" in sys.argv[2:]))
