"""The full-size network on the CPU: this project's runtime, one unrolled graph, and PyTorch.

    python benchmarks/network.py --sizes 112x64,180x144 --frames 4 --threads 2

Weights are random: speed doesn't depend on them. Neither does it on the ranges of the INT8 bundle, in which every
convolution is quantised to made-up ones. Each contestant runs in its own process, so that peak memory can be
measured; they take turns, so that a slower phase of the machine affects all. On a machine that others use meanwhile,
compare `cpu_seconds` with `--threads 1`: the processor time per output frame. Those that this machine can't run (no
native library, no bfloat16, ...) are listed with the reason. PyTorch computes the deformable convolution in torch's own
operators (`grid_sample`), not with torchvision's. `products` are lower bounds, not systems: as much arithmetic in large
matrix products. Results go to benchmarks/results/network-cpu.json.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zsm.engine import NetworkConfig
from zsm.engine.bundle.shapes import Size
from zsm.engine.diagnose import machine
from zsm.plugins import library, onnxruntime_library

RESULT = Path(__file__).parent / "results" / "network-cpu.json"

Process = Callable[[], Any]

SIDE = 2048
"""Rows and columns of the matrices that show what the processor can do."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="112x64,180x144")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--windows", type=int, default=4, help="measured in each round, after one to warm up")
    parser.add_argument("--contestants", nargs="*", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--models", type=Path, help="keep the exported models in this folder, for later runs")
    args = parser.parse_args()
    sizes = [Size.parse(text) for text in args.sizes.split(",")]
    if args.contestant:
        print(json.dumps(contest(args.contestant, args.models, sizes[0], args)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        rows = [row for size in sizes for row in compare(size, args.models or Path(temporary), args)]
    result = {
        "what": "seconds per output frame: minimum, median and maximum over the rounds of each round's best window; "
        "pytorch: the deformable convolution in torch's own operators (grid_sample), not torchvision's; "
        "products: lower bounds, not systems",
        "command": f"python {' '.join(sys.argv)}",
        "date": time.strftime("%Y-%m-%d"),
        "frames": args.frames,
        "threads": args.threads,
        "machine": machine.describe(),
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


def compare(size: Size, folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run all contestants at one size, in turns."""
    models = folder / f"{size}-{args.frames}"
    prepare(models, size, args.frames)
    runs: dict[str, list[dict[str, float]]] = defaultdict(list)
    faults: dict[str, str] = {}
    for _ in range(args.rounds):
        for name in args.contestants:
            if name in faults:
                continue
            try:
                run = in_own_process(name, models, size, args)
                runs[name].append(run)
                print(size, name, run, flush=True)
            except subprocess.CalledProcessError as error:
                faults[name] = str(error.stderr).strip().rpartition("\n")[2]
                print(size, name, faults[name], flush=True)
    rows: list[dict[str, Any]] = [{"size": str(size), "name": name, **summary(each)} for name, each in runs.items()]
    rows += [{"size": str(size), "name": name, "fault": fault} for name, fault in faults.items()]
    return rows


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
    export_bundle(network, models / "bundle", Options(overwrite=True, trained=False))
    clip = torch.rand(1, frames, 3, size.height, size.width)
    program = torch.onnx.export(network, (clip,), input_names=["clip"], opset_version=OPSET, dynamo=True, verbose=False)
    assert program is not None
    part = models / "unrolled.part"
    part.write_bytes(make_portable(program.model_proto).SerializeToString())
    quantise(models / "bundle", models / "bundle-int8")
    part.rename(models / "unrolled.onnx")


def quantise(bundle: Path, out: Path) -> None:
    """Copy a bundle, with every convolution in int8."""
    import onnx

    from zsm.export.int8 import graphs, trials

    shutil.copytree(bundle, out, dirs_exist_ok=True)
    manifest = (out / "manifest.json").read_text()
    for stage in trials.ORDER:
        path = out / f"{stage}.onnx"
        before = path.read_bytes()
        model = onnx.load_from_string(before)
        ranges = dict.fromkeys(graphs.activations(model), 1.0)
        after = graphs.quantise(model, [layer.node for layer in graphs.layers(model)], ranges).SerializeToString()
        path.write_bytes(after)
        digest, new_digest = (hashlib.sha256(content).hexdigest() for content in (before, after))
        manifest = manifest.replace(digest, new_digest)
    (out / "manifest.json").write_text(manifest)


def in_own_process(name: str, models: Path, size: Size, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--contestant", name, "--models", str(models)]
    command += ["--sizes", str(size), "--frames", str(args.frames), "--threads", str(args.threads)]
    command += ["--windows", str(args.windows)]
    with tempfile.TemporaryDirectory() as empty:
        plugins = {} if "native" in name else {"ZSM_PLUGIN_DIR": empty}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **plugins})
    values: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return values


def contest(name: str, models: Path, size: Size, args: argparse.Namespace) -> dict[str, float]:
    clip = np.random.default_rng(0).random((args.frames, size.height, size.width, 3), np.float32)
    process = CONTESTANTS[name](models, clip, args.threads)
    process()
    seconds, cpu_seconds = [], []
    for _ in range(args.windows):
        begin = time.perf_counter(), time.process_time()
        process()
        seconds.append((time.perf_counter() - begin[0]) / (2 * args.frames - 1))
        cpu_seconds.append((time.process_time() - begin[1]) / (2 * args.frames - 1))
    return {"seconds": min(seconds), "cpu_seconds": min(cpu_seconds), "peak_mib": machine.peak_rss_mib()}


def zsm(models: Path, clip: Any, threads: int, bundle: str = "bundle", **options: Any) -> Process:
    from zsm.engine import Runtime

    runtime = Runtime(models / bundle, window=max(2, len(clip)), threads=threads, **options)
    return lambda: runtime(clip)


def zsm_native(models: Path, clip: Any, threads: int, **options: Any) -> Process:
    if library("core") is None or onnxruntime_library() is None:
        raise SystemExit("the native libraries aren't built (docs/profiling.md)")
    return zsm(models, clip, threads, **options)


def planes_of(clip: Any) -> Any:
    return np.ascontiguousarray(np.moveaxis(clip, -1, 1))[None]


def unrolled_onnxruntime(models: Path, clip: Any, threads: int) -> Process:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(models / "unrolled.onnx", options, providers=["CPUExecutionProvider"])
    planes = planes_of(clip)
    return lambda: session.run(None, {"clip": planes})


def unrolled_openvino(models: Path, clip: Any, threads: int, precision: str = "f32") -> Process:
    import onnx

    from zsm.plugins.openvino import compile_model, core

    model = onnx.load(models / "unrolled.onnx")
    del model.functions[:]
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    compiled = compile_model(core(None, threads), model.SerializeToString(), "CPU", settings)
    if compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() != precision:
        raise SystemExit(f"OpenVINO doesn't compute in {precision} here")
    planes = planes_of(clip)
    return lambda: compiled({"clip": planes})


def pytorch(models: Path, clip: Any, threads: int, *, compiled: bool = False) -> Process:
    import torch

    from zsm.export.model import checkpoint

    torch.set_num_threads(threads)
    network = checkpoint.load(models / "network.safetensors")
    run = torch.compile(network) if compiled else network
    planes = torch.from_numpy(planes_of(clip))
    return torch.inference_mode()(lambda: run(planes))


def products_onnxruntime(models: Path, clip: Any, threads: int) -> Process:
    """As much arithmetic as the network's, in large matrix products: what it would take at the processor's best."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIDE, SIDE]) for name in "abc"]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", infos[:2], infos[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    matrix = np.random.default_rng(0).random((SIDE, SIDE), np.float32)
    return repeated(lambda: session.run(None, {"a": matrix, "b": matrix}), models, clip)


def products_pytorch_bfloat16(models: Path, clip: Any, threads: int) -> Process:
    import torch

    torch.set_num_threads(threads)
    matrix = torch.rand(SIDE, SIDE).bfloat16()
    return repeated(lambda: torch.mm(matrix, matrix), models, clip)


def repeated(product: Process, models: Path, clip: Any) -> Process:
    """Multiply as often as it takes for the network's arithmetic on the clip."""
    from zsm.engine import Bundle

    frames, height, width, _ = clip.shape
    outputs = 2 * frames - 1
    calls = {"extract": frames, "interpolate": frames - 1, "propagate": 2 * outputs, "reconstruct": outputs}
    stages = Bundle(models / "bundle").manifest.stages
    flop = height * width * sum(stages[name].flop_per_pixel * count for name, count in calls.items())
    times = round(flop / (2 * SIDE**3))
    return lambda: [product() for _ in range(times)]


CONTESTANTS: dict[str, Callable[[Path, Any, int], Process]] = {
    "zsm": partial(zsm, backend="onnxruntime"),
    "zsm-native": partial(zsm_native, backend="onnxruntime"),
    "zsm-openvino": partial(zsm, backend="openvino"),
    "zsm-openvino-native": partial(zsm_native, backend="openvino"),
    "zsm-openvino-native-bfloat16": partial(zsm_native, backend="openvino", precision="bfloat16"),
    "zsm-native-int8": partial(zsm_native, bundle="bundle-int8", backend="onnxruntime"),
    "zsm-openvino-native-int8-bfloat16": partial(
        zsm_native, bundle="bundle-int8", backend="openvino", precision="bfloat16"
    ),
    "unrolled-onnxruntime": unrolled_onnxruntime,
    "unrolled-openvino": unrolled_openvino,
    "unrolled-openvino-bfloat16": partial(unrolled_openvino, precision="bf16"),
    "pytorch": pytorch,
    "pytorch-compiled": partial(pytorch, compiled=True),
    "products-onnxruntime": products_onnxruntime,
    "products-pytorch-bfloat16": products_pytorch_bfloat16,
}
"""By name, what makes a function that processes the clip once. `native` means this project's deformable convolution."""


def summary(runs: list[dict[str, float]]) -> dict[str, float]:
    seconds = [run["seconds"] for run in runs]
    return {
        "min": min(seconds),
        "median": statistics.median(seconds),
        "max": max(seconds),
        "cpu_seconds": min(run["cpu_seconds"] for run in runs),
        "peak_mib": max(run["peak_mib"] for run in runs),
    }


if __name__ == "__main__":
    main()
