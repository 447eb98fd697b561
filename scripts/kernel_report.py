"""Check the CUDA kernels' machine code against limits. Needs nvcc and cuobjdump, but no GPU.

    python scripts/kernel_report.py [--architectures 80 90] [--json FILE]

Prints registers and spills of each kernel and, of the fused kernels' gather loop, the instructions per sample (8
channels at one tap of one pixel, multiplication included) and the branches besides the loop's own. Fails if nvcc warns
or, from sm_80 on, a fused kernel exceeds a limit.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

PLUGINS = Path(__file__).resolve().parents[1] / "plugins"
ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")
LIMITS = {"registers": 80, "spilled": 0, "instructions": 80, "branches": 0}
CORNERS = 4
"""128-bit loads per sample."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """A kernel's resources on one architecture: registers per thread, bytes spilled, and its gather loop."""

    kernel: str
    architecture: str
    registers: int
    spilled: int
    instructions: float | None = None
    branches: int | None = None

    def excesses(self) -> list[str]:
        """The limits that a fused kernel exceeds."""
        if not self.kernel.startswith("fused") or self.architecture == "sm_75":
            return []
        values = asdict(self)
        over = [name for name, most in LIMITS.items() if values[name] is not None and values[name] > most]
        missing = [name for name in LIMITS if values[name] is None]
        where = f"{self.kernel} on {self.architecture}"
        return [f"{where}: {values[name]:g} {name}, at most {LIMITS[name]}" for name in over] + [
            f"{where}: {name} unknown, no gather loop found" for name in missing
        ]


def disassembler() -> str:
    """The path of cuobjdump, from the CUDA toolkit or its pip package."""
    packages = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    found = shutil.which("cuobjdump") or next((str(path) for path in packages.glob("*/bin/cuobjdump")), None)
    if not found:
        sys.exit("cuobjdump is missing; install the CUDA toolkit's, or pip install nvidia-cuda-cuobjdump")
    return found


def compile_for(architecture: str, cubin: Path) -> str:
    """Compile for one architecture and return nvcc's report; warnings are errors."""
    command = ["nvcc", "-std=c++17", "-O3", f"-I{PLUGINS}", "-Werror=all-warnings", "-Xcompiler=-Wall,-Wextra,-Werror"]
    command += [f"-arch=sm_{architecture}", "-Xptxas=-v", "-cubin"]
    done = subprocess.run([*command, PLUGINS / "core" / "cuda.cu", "-o", cubin], text=True, capture_output=True)
    if done.returncode:
        sys.exit(f"nvcc failed for sm_{architecture}:\n{done.stderr}")
    return done.stderr


def gather_loop(listing: str) -> tuple[float, int] | None:
    """Instructions per sample and inner branches of the smallest loop that holds all 128-bit loads from global memory.

    `listing` is one kernel's, as cuobjdump prints it. None if there is no such loop.
    """
    code = [(int(at, 16), text) for at, text in re.findall(r"^\s*/\*([0-9a-f]{4,})\*/\s+([^;]+);", listing, re.M)]
    loads = [at for at, text in code if re.search(r"\bLDG\.E\.128\b", text)]
    jumps = [(at, int(to[1], 16)) for at, text in code if (to := re.search(r"\bBRA\b.*\b0x([0-9a-f]+)", text))]
    loops = [(end - start, start, end) for end, start in jumps if loads and start <= loads[0] and loads[-1] < end]
    if not loops:
        return None
    _, start, end = min(loops)
    body = [text for at, text in code if start <= at < end]
    branches = sum(bool(re.search(r"\b(BRA|BRX|JMP|JMX|CALL|RET|EXIT)\b", text)) for text in body)
    return (len(body) + 1) * CORNERS / len(loads), branches


def name_of(mangled: str) -> str:
    """The kernel's name, with channels and deformable groups."""
    found = re.search(r"fused\d(kernel|prepare)INS\d_6ConfigILi(\d+)ELi(\d+)E", mangled)
    if found:
        return f"{'fused' if found[1] == 'kernel' else 'prepare'} {found[2]}/{found[3]}"
    return f"plain {'FP16' if 'Half' in mangled else 'FP32'}"


def usages(report: str, sass: str, architecture: str) -> Iterator[Usage]:
    """The kernels in a report of nvcc and a listing of cuobjdump."""
    listings = {part.split()[0]: part for part in sass.split("Function : ")[1:]}
    for part in report.split("Compiling entry function '")[1:]:
        mangled = part.split("'")[0]
        name = name_of(mangled)

        def number(pattern: str, text: str = part) -> int:
            return sum(map(int, re.findall(pattern, text)))

        loop = gather_loop(listings[mangled]) if name.startswith("fused") else None
        yield Usage(
            kernel=name,
            architecture=f"sm_{architecture}",
            registers=number(r"Used (\d+) registers"),
            spilled=number(r"(\d+) bytes spill"),
            instructions=loop[0] if loop else None,
            branches=loop[1] if loop else None,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES, metavar="90")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()

    found: list[Usage] = []
    cuobjdump = disassembler()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for architecture in arguments.architectures:
            report = compile_for(architecture, folder / "cuda.cubin")
            dump = subprocess.run(
                [cuobjdump, "-sass", folder / "cuda.cubin"], check=True, text=True, capture_output=True
            )
            found += usages(report, dump.stdout, architecture)

    print(f"{'kernel':<13} {'for':<7} {'registers':>9} {'spilled':>8} {'per sample':>11} {'branches':>9}")
    for u in sorted(found, key=lambda u: u.kernel):
        loop = "" if u.instructions is None else f" {u.instructions:>11.1f} {u.branches:>9}"
        print(f"{u.kernel:<13} {u.architecture:<7} {u.registers:>9} {u.spilled:>8}{loop}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(usage) for usage in found], indent=1) + "\n")
    excesses = [excess for usage in found for excess in usage.excesses()]
    if excesses:
        sys.exit("\n".join(excesses))


if __name__ == "__main__":
    main()
