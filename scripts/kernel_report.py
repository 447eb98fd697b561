"""Prints what nvcc reports of every CUDA kernel: registers, shared memory, spills. Needs nvcc, no GPU.

    python scripts/kernel_report.py [--architectures 80 90] [--json FILE]

Fails if nvcc warns, or if a fused kernel spills registers to memory on any of the architectures.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

PLUGINS = Path(__file__).resolve().parents[1] / "plugins"
ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")
FUSED = ("Streamed64", "Streamed128", "Resident64", "Resident128")

# Dynamic shared memory is chosen at launch, so it is asked of the header; the mangled name links it to the report.
SIZES = """
#include <cstdio>
#include <typeinfo>
#include "core/fused.h"
using namespace zsm::fused;
template <typename C>
void print(const char* name) { std::printf("%s %s %d\\n", typeid(C).name(), name, C::kSharedBytes); }
int main() { PRINTS }
"""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What one kernel takes on one architecture; memory in bytes, shared memory per block."""

    kernel: str
    architecture: str
    registers: int
    shared: int
    spill_stores: int
    spill_loads: int


def fused_sizes(folder: Path) -> dict[str, tuple[str, int]]:
    """Of each fused kernel: its configuration as it stands in mangled names -> name, dynamic shared memory."""
    source, program = folder / "sizes.cc", folder / "sizes"
    source.write_text(SIZES.replace("PRINTS", " ".join(f'print<{name}>("{name}");' for name in FUSED)))
    subprocess.run(["c++", "-std=c++17", f"-I{PLUGINS}", source, "-o", program], check=True)
    lines = subprocess.run([program], check=True, text=True, capture_output=True).stdout.splitlines()
    sizes = {}
    for mangled, name, size in map(str.split, lines):
        configuration = re.search(r"I(?:L\w\d+E)+E", mangled)
        assert configuration
        sizes[configuration[0]] = name, int(size)
    return sizes


def compile_for(architecture: str, folder: Path) -> str:
    """nvcc's report; its warnings are errors."""
    command = ["nvcc", "-std=c++17", "-O3", f"-I{PLUGINS}", "-Werror=all-warnings", "-Xcompiler=-Wall,-Wextra,-Werror"]
    command += [f"-gencode=arch=compute_{architecture},code=sm_{architecture}", "-Xptxas=-v", "-c"]
    done = subprocess.run(
        [*command, PLUGINS / "core" / "cuda.cu", "-o", folder / "cuda.o"], text=True, capture_output=True
    )
    if done.returncode:
        sys.exit(f"nvcc failed for sm_{architecture}:\n{done.stderr}")
    return done.stderr


def usages(report: str, architecture: str, sizes: dict[str, tuple[str, int]]) -> Iterator[Usage]:
    """The kernels in a report of nvcc."""
    for part in report.split("Compiling entry function '")[1:]:
        mangled = part.split("'")[0]
        name, dynamic = next((v for k, v in sizes.items() if k in mangled), (None, 0))

        def number(pattern: str, text: str = part) -> int:
            found = re.search(pattern, text)
            return int(found[1]) if found else 0

        yield Usage(
            kernel=f"fused {name}" if name else f"plain {'FP16' if 'Half' in mangled else 'FP32'}",
            architecture=f"sm_{architecture}",
            registers=number(r"Used (\d+) registers"),
            shared=number(r"(\d+) bytes smem") + dynamic,
            spill_stores=number(r"(\d+) bytes spill stores"),
            spill_loads=number(r"(\d+) bytes spill loads"),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES, metavar="90")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = fused_sizes(folder)
        found = [u for a in arguments.architectures for u in usages(compile_for(a, folder), a, sizes)]

    print(f"{'kernel':<20} {'for':<7} {'registers':>9} {'shared':>7} {'spilled':>8}")
    for u in sorted(found, key=lambda u: u.kernel):
        print(f"{u.kernel:<20} {u.architecture:<7} {u.registers:>9} {u.shared:>7} {u.spill_stores + u.spill_loads:>8}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(usage) for usage in found], indent=1) + "\n")
    if any(u.spill_stores + u.spill_loads for u in found if u.kernel.startswith("fused")):
        sys.exit("a fused kernel spills registers")


if __name__ == "__main__":
    main()
