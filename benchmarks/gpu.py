"""The full-size network on a GPU: milliseconds per output frame and utilisation, for each backend.

    python benchmarks/gpu.py --sizes 112x64 180x144 480x270 --out benchmarks/results/gpu.json

`tensorrt` and `onnxruntime` stream a bundle frame by frame, uint8 in and out, copies included. `-live` waits for each
output before it reads the next frame; the difference shows what overlapping copies with computation gains.
`onnxruntime-plain` runs without this project's kernel. Offsets are those of an untrained network: none. Each
contestant runs in its own process; if one fails, the report records why. Building engines isn't timed. Results are
saved after each measurement; `--lines` also prints each as one line of JSON. benchmarks/pytorch.py measures the same
network in PyTorch.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from zsm.engine import Bundle, NetworkConfig
from zsm.engine.bundle.shapes import Size
from zsm.engine.diagnose import machine

CONTESTANTS = (
    *("onnxruntime", "onnxruntime-plain", "onnxruntime-live"),
    *("tensorrt", "tensorrt-live"),
)
WINDOW = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=Size.parse, nargs="+", default=[Size(112, 64), Size(180, 144), Size(480, 270)])
    parser.add_argument("--frames", type=int, default=40, help="input frames per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp16", help="of a bundle exported here")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument(
        "--config", default="{}", help="the network's settings as JSON (default: the full-size network)"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"))
    parser.add_argument("--lines", action="store_true", help="print each result as one line of JSON")
    parser.add_argument("--contestants", choices=CONTESTANTS, nargs="+", default=CONTESTANTS)
    parser.add_argument("--bundle", type=Path, help="a bundle, or where to export one (default: temporary)")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contestant:
        print(json.dumps(contest(args)))
        return
    report: dict[str, Any] = {
        "what": "milliseconds per output frame: minimum, median and maximum of the rounds; GPU utilisation in per cent",
        "command": f"python {' '.join(sys.argv)}",
        "date": time.strftime("%Y-%m-%d"),
        "device": args.device,
        "frames": args.frames,
        "rounds": args.rounds,
        "machine": machine.describe(),
        "sizes": {str(size): {} for size in args.sizes},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        args.bundle = args.bundle or Path(temporary) / "bundle"
        if not args.bundle.exists():
            export(args)
        report["precision"] = Bundle(args.bundle).manifest.precision
        for size in args.sizes:
            for name in args.contestants:
                result = in_own_process(name, size, args)
                report["sizes"][str(size)][name] = result
                args.out.write_text(json.dumps(report, indent=1) + "\n")
                line = {"size": str(size), "name": name, **result}
                print(json.dumps(line, indent=None if args.lines else 1), flush=True)


def export(args: argparse.Namespace) -> None:
    import torch

    from zsm.export import Options, export_bundle
    from zsm.export.model import Network

    torch.manual_seed(0)
    network = Network(NetworkConfig.from_dict(json.loads(args.config))).eval()
    export_bundle(network, args.bundle, Options(precision=args.precision, trained=False))


def in_own_process(name: str, size: Size, args: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--contestant", name, "--bundle", str(args.bundle), "--sizes", str(size)]
    command += ["--frames", str(args.frames), "--rounds", str(args.rounds)]
    command += ["--device", args.device]
    with tempfile.TemporaryDirectory() as empty:
        env = {**os.environ, "ZSM_PLUGIN_DIR": empty} if name == "onnxruntime-plain" else None
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no error message"])[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def contest(args: argparse.Namespace) -> dict[str, Any]:
    size = args.sizes[0]
    clip = np.random.default_rng(0).integers(0, 256, (args.frames, size.height, size.width, 3), np.uint8)
    process, about = zsm(args, clip)
    process()
    milliseconds = []
    with utilisation(args.device) as percent:
        for _ in range(args.rounds):
            begin = time.perf_counter()
            outputs = process()
            milliseconds.append(1000 * (time.perf_counter() - begin) / outputs)
    return {
        "milliseconds": {
            "min": min(milliseconds),
            "median": statistics.median(milliseconds),
            "max": max(milliseconds),
        },
        "utilisation": statistics.mean(percent) if percent else None,
        **about,
    }


Contestant = tuple[Callable[[], int], dict[str, Any]]


def zsm(args: argparse.Namespace, clip: Any) -> Contestant:
    """Raises SystemExit unless the contestant's own operator is in use: without it, another one is measured."""
    from zsm.engine import Runtime

    backend, _, variant = args.contestant.partition("-")
    runtime = Runtime(args.bundle, device=args.device, backend=backend, window=WINDOW, build=True)
    about = runtime.describe()
    if backend == "onnxruntime" and ("libzsm" in about["operator"]) == (variant == "plain"):
        sys.exit(f"{args.contestant} would run {about['operator']}; ZSM_PLUGIN_DIR must name the folder of ours")
    live = variant == "live"
    return lambda: sum(1 for _ in runtime.stream(clip, live=live)), {"runtime": about}


@contextmanager
def utilisation(device: str) -> Iterator[list[float]]:
    """How busy the GPU is, in per cent, every tenth of a second; nothing where nvidia-smi doesn't say."""
    command = shutil.which("nvidia-smi")
    percent: list[float] = []
    if command is None or not device.startswith("cuda"):
        yield percent
        return
    query = [command, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
    query += [f"--id={device.partition(':')[2] or 0}"]
    with subprocess.Popen(query, stdout=subprocess.PIPE, text=True) as sampler:
        assert sampler.stdout is not None
        lines = sampler.stdout
        reader = threading.Thread(
            target=lambda: percent.extend(float(line) for line in lines if line.strip().isdigit())
        )
        reader.start()
        try:
            yield percent
        finally:
            sampler.terminate()
            reader.join()


if __name__ == "__main__":
    main()
