"""Peak memory and time on the CPU: whole frames and tiles, beside the estimate by which tiles are chosen.

    python benchmarks/memory.py compact --sizes 112x64,480x270,960x540 --limits none,1GiB [--frames 4]

Each measurement is a process of its own, so that none counts another's memory. Frames are noise: the arithmetic doesn't
depend on them. On a machine that others use meanwhile, compare processor time (`cpu_seconds_per_output`). Results go to
--out.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from zsm.engine import Bundle, Runtime, host
from zsm.engine.bundle.shapes import Size
from zsm.engine.devices import Device
from zsm.engine.diagnose import machine
from zsm.engine.tiling import Tiling

RESULT = Path(__file__).parent / "results" / "memory-cpu.json"


def count(frames: Iterable[object]) -> int:
    """Without holding them."""
    return sum(1 for _ in frames)


def measure(bundle: str, backend: str, size: Size, frames: int, limit: str | None) -> dict[str, Any]:
    frame = np.random.default_rng(0).integers(0, 256, (size.height, size.width, 3), np.uint8)
    with Runtime(bundle, backend=backend, tile="auto" if limit else None, memory=limit) as runtime:
        count(runtime.stream([frame[:32, :32]] * 2))  # libraries and weights are loaded
        before = machine.peak_rss_mib()
        count(runtime.stream([frame] * frames))  # to warm up
        begin = time.perf_counter(), time.process_time()
        outputs = count(runtime.stream([frame] * frames))
        seconds, cpu_seconds = time.perf_counter() - begin[0], time.process_time() - begin[1]
        tile = Size.parse(runtime.tile(size.width, size.height, 1) or str(size))
    tiling = Tiling(
        Bundle(bundle), Device.parse("cpu"), host.free_memory,
        window=4, overlap=1, tile="auto", memory=None, backend=lambda: backend,
    )  # fmt: skip
    return {
        "size": str(size),
        "limit": limit,
        "tile": None if tile == size else str(tile),
        "frames": frames,
        "seconds_per_output": round(seconds / outputs, 3),
        "cpu_seconds_per_output": round(cpu_seconds / outputs, 3),
        "peak_mib": int(machine.peak_rss_mib()),
        "of_libraries_mib": int(before),
        "estimate_mib": tiling.needs(size, tile, 1) >> 20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--sizes", default="112x64,240x136,480x270,960x540")
    parser.add_argument("--limits", default="none")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    limits = [None if limit == "none" else limit for limit in args.limits.split(",")]
    if args.one:
        print(json.dumps(measure(args.bundle, args.backend, Size.parse(args.sizes), args.frames, limits[0])))
        return
    rows = []
    for size in args.sizes.split(","):
        for limit in limits:
            what = ["--one", "--backend", args.backend, "--sizes", size, "--limits", str(limit or "none")]
            command = [sys.executable, __file__, args.bundle, *what, "--frames", str(args.frames)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(done.stdout))
            print(rows[-1], flush=True)
    result = {
        "command": " ".join(["python benchmarks/memory.py", *sys.argv[1:]]),
        "date": date.today().isoformat(),
        "machine": machine.describe(),
        "bundle": args.bundle,
        "backend": args.backend,
        "rows": rows,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
