"""Peak memory and time per frame of short and long streams: neither should grow with the length.

python benchmarks/stream.py BUNDLE --out benchmarks/results/stream-cpu.json
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from zsm.engine import Runtime
from zsm.engine.bundle.shapes import Size
from zsm.engine.diagnose import machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("--size", type=Size.parse, default=Size(112, 64))
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--lengths", type=int, nargs="+", default=[40, 400])
    parser.add_argument("--rounds", type=int, default=3, help="the fastest run and the highest peak memory count")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/stream-cpu.json"))
    parser.add_argument("--length", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.length:
        print(json.dumps(stream(args.bundle, args.backend, args.size, args.length)))
        return
    runs = [{length: in_own_process(args, length) for length in args.lengths} for _ in range(args.rounds)]
    result = {
        "command": f"python {' '.join(sys.argv)}",
        "date": time.strftime("%Y-%m-%d"),
        "size": str(args.size),
        "backend": args.backend,
        "machine": machine.describe(),
        "rounds": args.rounds,
        "frames": {length: best([run[length] for run in runs]) for length in args.lengths},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["frames"], indent=1))


def in_own_process(args: argparse.Namespace, length: int) -> dict[str, float]:
    how = ["--backend", args.backend, "--size", str(args.size), "--length", str(length)]
    command = [sys.executable, __file__, args.bundle, *how]
    values: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return values


def stream(bundle: str, backend: str, size: Size, length: int) -> dict[str, float]:
    generator = np.random.default_rng(0)
    frames = (generator.integers(0, 256, (size.height, size.width, 3), np.uint8) for _ in range(length))
    with Runtime(bundle, backend=backend) as runtime:
        runtime(np.zeros((4, size.height, size.width, 3), np.uint8))
        begin = time.perf_counter()
        outputs = sum(1 for _ in runtime.stream(frames))
        seconds = time.perf_counter() - begin
    return {"seconds_per_output": seconds / outputs, "peak_rss_mib": machine.peak_rss_mib()}


def best(runs: list[dict[str, float]]) -> dict[str, float]:
    return {
        "seconds_per_output": min(run["seconds_per_output"] for run in runs),
        "peak_rss_mib": max(run["peak_rss_mib"] for run in runs),
    }


if __name__ == "__main__":
    main()
