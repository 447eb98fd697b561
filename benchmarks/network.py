"""The full-size network on the CPU: this project's runtime, one unrolled graph, and PyTorch.

    python benchmarks/network.py --size 112x64 --frames 4 --threads 2 --out benchmarks/results/network-cpu.json

`zsm` runs the deformable convolution with ONNX Runtime's own operator, `zsm-native` with this project's library, if
that is built (docs/profiling.md). Weights are random: speed doesn't depend on them. Each contestant runs in its own
process, so that peak memory can be measured; they take turns, so that a slower phase of the machine affects all.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from zsm.engine import NetworkConfig
from zsm.engine.bundle.shapes import Size
from zsm.engine.diagnose import machine
from zsm.plugins import onnxruntime_library

CONTESTANTS = ("zsm", "zsm-native", "unrolled", "pytorch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=Size.parse, default=Size(112, 64))
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/network-cpu.json"))
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--models", type=Path, help="keep the exported models in this folder, for later runs")
    args = parser.parse_args()
    if args.contestant:
        print(json.dumps(contest(args.contestant, args.models, args.size, args.frames, args.threads)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        models = (args.models or Path(temporary)) / f"{args.size}-{args.frames}"
        prepare(models, args.size, args.frames)
        runs: dict[str, list[dict[str, float]]] = {
            name: [] for name in CONTESTANTS if name != "zsm-native" or onnxruntime_library()
        }
        for _ in range(args.rounds):
            for name in runs:
                runs[name].append(in_own_process(name, models, args))
    result = {
        "what": "seconds per output frame: minimum, median and maximum over the rounds of each round's best window",
        "command": f"python {' '.join(sys.argv)}",
        "date": time.strftime("%Y-%m-%d"),
        "size": str(args.size),
        "frames": args.frames,
        "threads": args.threads,
        "machine": machine.describe(),
        "contestants": {name: summary(each) for name, each in runs.items()},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["contestants"], indent=1))


def prepare(models: Path, size: Size, frames: int) -> None:
    """Write one network as a bundle, as an unrolled graph and as weights, unless they exist."""
    if (models / "unrolled.onnx").is_file():
        return
    models.mkdir(parents=True, exist_ok=True)
    import torch

    from zsm.export import Options, export_bundle
    from zsm.export.model import Network, checkpoint
    from zsm.plugins.operator import OPSET, make_portable

    torch.manual_seed(0)
    network = Network(NetworkConfig()).eval()
    checkpoint.save(network, models / "network.safetensors")
    export_bundle(network, models / "bundle", Options(overwrite=True))
    clip = torch.rand(1, frames, 3, size.height, size.width)
    program = torch.onnx.export(network, (clip,), input_names=["clip"], opset_version=OPSET, dynamo=True, verbose=False)
    assert program is not None
    part = models / "unrolled.part"
    part.write_bytes(make_portable(program.model_proto).SerializeToString())
    part.rename(models / "unrolled.onnx")


def in_own_process(name: str, models: Path, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--contestant", name, "--models", str(models)]
    command += ["--size", str(args.size), "--frames", str(args.frames), "--threads", str(args.threads)]
    with tempfile.TemporaryDirectory() as empty:
        env = dict(os.environ) if name == "zsm-native" else {**os.environ, "ZSM_PLUGIN_DIR": empty}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
    values: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return values


def contest(name: str, models: Path, size: Size, frames: int, threads: int) -> dict[str, float]:
    clip = np.random.default_rng(0).random((frames, size.height, size.width, 3), np.float32)
    process = {"zsm": zsm, "zsm-native": zsm, "unrolled": unrolled, "pytorch": pytorch}[name](models, clip, threads)
    process()
    seconds = []
    for _ in range(4):
        begin = time.perf_counter()
        process()
        seconds.append((time.perf_counter() - begin) / (2 * frames - 1))
    return {"seconds": min(seconds), "peak_rss_mib": machine.peak_rss_mib()}


def zsm(models: Path, clip: Any, threads: int) -> Callable[[], Any]:
    from zsm.engine import Runtime

    runtime = Runtime(models / "bundle", window=max(2, len(clip)), threads=threads)
    return lambda: runtime(clip)


def unrolled(models: Path, clip: Any, threads: int) -> Callable[[], Any]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(models / "unrolled.onnx", options, providers=["CPUExecutionProvider"])
    planes = np.ascontiguousarray(np.moveaxis(clip, -1, 1))[None]
    return lambda: session.run(None, {"clip": planes})


def pytorch(models: Path, clip: Any, threads: int) -> Callable[[], Any]:
    import torch

    from zsm.export.model import checkpoint

    torch.set_num_threads(threads)
    network = checkpoint.load(models / "network.safetensors")
    planes = torch.from_numpy(clip).movedim(-1, 1)[None].contiguous()
    return torch.inference_mode()(lambda: network(planes))


def summary(runs: list[dict[str, float]]) -> dict[str, float]:
    seconds = [run["seconds"] for run in runs]
    return {
        "min": min(seconds),
        "median": statistics.median(seconds),
        "max": max(seconds),
        "peak_rss_mib": max(run["peak_rss_mib"] for run in runs),
    }


if __name__ == "__main__":
    main()
