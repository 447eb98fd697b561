"""One deformable convolution of the network (64 channels, 8 groups, 3x3): this project's kernels and others'.

    python benchmarks/deform_conv.py --device cpu --threads 2
    python benchmarks/deform_conv.py --device cuda --build build/gpu

On the CPU: the native operator in ONNX Runtime, and ONNX Runtime's own DeformConv (the ONNX function). On a GPU: every
CUDA kernel, the fused kernel's sampling alone, torchvision's operator, and im2col + cuBLAS, the method of TensorRT's
plugin and of mmcv; a comparison with two lower bounds, the sampling alone and the compulsory traffic at the bandwidth
that a copy reaches in the same run. The GPU benchmark needs only numpy, torch with CUDA and, for its operator,
torchvision. Offsets average two pixels.

Results are saved after each measurement; `--lines` also prints each as one line of JSON.
"""

import argparse
import ctypes
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zsm.engine.diagnose import machine
from zsm.limits import cores
from zsm.plugins import library
from zsm.plugins.native import Attributes, Core, Kernel, Shape, Tensors

CHANNELS, ATTRIBUTES = 64, Attributes(offset_group=8)
SIZES = {
    "cpu": ("112x64", "180x144", "480x270"),
    "cuda": ("480x270", "112x64", "180x144", "320x180", "960x540"),
}
DTYPES = {"cpu": ("float32",), "cuda": ("float16", "float32")}
LARGEST_CHECKED = 1_000_000
"""Pixels; the float32 reference of larger images takes more memory than many GPUs have."""

Array = NDArray[Any]
Inputs = tuple[Array, Array, Array, Array]
Result = dict[str, Any]


class Size(NamedTuple):
    """Width and height in pixels; zsm's own needs more packages than this benchmark."""

    width: int
    height: int

    @classmethod
    def parse(cls, text: str) -> "Size":
        match = re.fullmatch(r"(\d+)x(\d+)", text)
        if match is None:
            raise argparse.ArgumentTypeError(f"invalid size {text!r}; write WxH, as in 480x270")
        return cls(int(match[1]), int(match[2]))

    @property
    def pixels(self) -> int:
        return self.width * self.height

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class Contestant:
    """An implementation of the operator; `run` computes it once, `output` returns the last result (N,C,H,W)."""

    name: str
    run: Callable[[], None]
    output: Callable[[], Array] | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=SIZES, default="cpu")
    parser.add_argument("--size", type=Size.parse, action="append", help="WxH; may be given several times")
    parser.add_argument("--dtype", choices=DTYPES["cuda"], action="append", help="likewise; on the CPU only float32")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--build", type=Path, default=Path("build/gpu"), help="where the gpu preset was built")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--lines", action="store_true", help="print each result as one line of JSON")
    args = parser.parse_args()
    sizes = args.size or [Size.parse(size) for size in SIZES[args.device]]
    measure = on_cpu if args.device == "cpu" else on_gpu
    report: dict[str, Any] = {
        "what": "microseconds per call: 10th percentile, median, 90th percentile; largest error / largest output",
        "command": f"python {' '.join(sys.argv)}",
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine.describe() | describe(args.device),
        "threads": args.threads if args.device == "cpu" else None,
        "runs": [],
    }
    out = args.out or Path(f"benchmarks/results/deform-conv-{args.device}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    for dtype in args.dtype or DTYPES[args.device]:
        for size in sizes:
            for result in measure(size, dtype, args):
                report["runs"].append(result)
                out.write_text(json.dumps(report, indent=1) + "\n")
                print(json.dumps(result) if args.lines else as_text(result), flush=True)
    print(f"written to {out}", file=sys.stderr)


def describe(device: str) -> dict[str, str]:
    if device == "cpu":
        import onnxruntime

        return {"onnxruntime": onnxruntime.__version__}
    import torch

    return {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": str(torch.version.cuda)}


def make_inputs(size: Size, dtype: str) -> Inputs:
    """x, offset_mask, weight, bias."""
    rng = np.random.default_rng(0)
    area = (size.height, size.width)
    x = rng.standard_normal((1, CHANNELS, *area), np.float32)
    offset_mask = rng.standard_normal((1, 27 * ATTRIBUTES.offset_group, *area), np.float32)
    offset_mask[:, :144] *= 2
    weight = rng.standard_normal((CHANNELS, CHANNELS, 3, 3), np.float32) / 24
    bias = rng.standard_normal(CHANNELS, np.float32)
    return x.astype(dtype), offset_mask.astype(dtype), weight.astype(dtype), bias.astype(dtype)


def timing(size: Size, dtype: str, name: str, microseconds: list[float], error: float | None) -> Result:
    """One contestant's result."""
    us = [round(float(value), 2) for value in np.percentile(microseconds, [10, 50, 90])]
    return {"size": str(size), "dtype": dtype, "name": name, "us": us, "error": error}


def as_text(result: Result) -> str:
    """A result as a line for people."""
    if "us" not in result:
        return json.dumps(result)
    low, median, high = result["us"]
    said = "" if result["error"] is None else f"  error {result['error']:.1e}"
    label = f"{result['size']:>9} {result['dtype']:<8} {result['name']:<28}"
    return f"{label} {median:10.1f} us  ({low:.1f} to {high:.1f}){said}"


def relative_error(output: Array, expected: Array) -> float:
    """The largest difference, relative to the largest value."""
    return float(abs(output.astype(np.float64) - expected).max() / abs(expected).max())


# --- CPU ---


def on_cpu(size: Size, dtype: str, args: argparse.Namespace) -> Iterator[Result]:
    """Both sessions take turns, so that a slower phase of the machine affects both."""
    native = library("onnxruntime")
    if native is None:
        sys.exit("libzsm_onnxruntime.so is not built; see docs/profiling.md, or set ZSM_PLUGIN_DIR")
    inputs = make_inputs(size, dtype)
    sessions = {
        "zsm operator": session(native, size, args.threads),
        "ONNX Runtime's DeformConv": session(None, size, args.threads),
    }
    feed = dict(zip(("x", "offset_mask", "weight", "bias"), inputs, strict=True))
    times: dict[str, list[float]] = {name: [] for name in sessions}
    outputs = {}
    for _ in range(args.rounds + 1):
        for name, each in sessions.items():
            start = time.perf_counter()
            (outputs[name],) = each.run(None, feed)
            times[name].append((time.perf_counter() - start) * 1e6)
    core = Core(native)
    expected = core.reference(ATTRIBUTES, *inputs) if size.pixels <= 30_000 else None
    for name, microseconds in times.items():
        error = None if expected is None else relative_error(outputs[name], expected)
        yield timing(size, dtype, name, microseconds[1:], error)


def session(native: Path | None, size: Size, threads: int) -> Any:
    """A model of one operator in ONNX Runtime."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    from zsm.plugins.operator import make_portable

    shapes = {name: tensor.shape for name, tensor in zip(_NAMES, make_inputs(size, "float32"), strict=True)}
    attributes: dict[str, Any] = {name: getattr(ATTRIBUTES, name) for name in ATTRIBUTES.__dataclass_fields__}
    attributes |= {"plugin_version": "1", "plugin_namespace": "zsm"}
    node = helper.make_node("DeformConv2d", _NAMES, ["y"], domain="zsm", **attributes)
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph([node], "g", infos, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("zsm", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # The sessions take turns; spinning threads of one would slow down the other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if native:
        options.register_custom_ops_library(str(native))
    else:
        make_portable(model)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


_NAMES = ["x", "offset_mask", "weight", "bias"]

# --- GPU ---


def on_gpu(size: Size, dtype: str, args: argparse.Namespace) -> Iterator[Result]:
    """Every contestant, captured in a CUDA graph so that launching costs nothing. Failures are results too."""
    folder = args.build / "lib"
    core, extra = Core(folder / "libzsm_core.so"), ctypes.CDLL(str(folder / "libzsm_benchmark.so"))
    inputs = make_inputs(size, dtype)
    expected = reference(core, inputs) if size.pixels <= LARGEST_CHECKED else None
    medians = {}
    for name, make in contestants(core, extra, inputs, dtype).items():
        try:
            for contestant in make():
                microseconds = timed(contestant.run, args.rounds)
                contestant.run()  # a graph's memory is freed with it
                output = contestant.output
                error = None if expected is None or output is None else relative_error(output(), expected)
                result = timing(size, dtype, contestant.name, microseconds, error)
                medians[contestant.name] = result["us"][1]
                yield result
        except ImportError as absent:
            yield {"size": str(size), "dtype": dtype, "name": name, "skipped": str(absent)}
        except Exception as failure:  # the others are measured all the same
            yield {"size": str(size), "dtype": dtype, "name": name, "failed": str(failure).partition("\n")[0]}
    yield comparison(size, dtype, medians, bandwidth(args.rounds))


def reference(core: Core, inputs: Inputs) -> Array:
    """The plain kernel's output in float32, which the tests hold against a float64 reference."""
    single: Inputs = tuple(tensor.astype(np.float32) for tensor in inputs)  # type: ignore[assignment]
    plain = next(contestant for contestant in ours(core, single, "float32") if contestant.name == "plain linear")
    plain.run()
    assert plain.output
    return plain.output()


def comparison(size: Size, dtype: str, medians: dict[str, float], gigabytes_per_second: float) -> Result:
    """The best kernel of ours beside its lower bounds and the other implementations: how many times as long each takes.

    Compulsory traffic is the input, offsets and masks read once, and the output written once.
    """
    element = np.dtype(dtype).itemsize
    compulsory = size.pixels * element * (2 * CHANNELS + 27 * ATTRIBUTES.offset_group)
    bounds = {"traffic": compulsory / gigabytes_per_second / 1e3}
    bounds |= {name: us for name, us in medians.items() if name == "gather only"}
    kernels = {name: us for name, us in medians.items() if name.startswith(("fused", "plain"))}
    others = {name: us for name, us in medians.items() if name not in (*kernels, *bounds)}
    result = {"size": str(size), "dtype": dtype, "name": "comparison", "bandwidth_gb_s": round(gigabytes_per_second, 1)}
    result["lower_bounds_us"] = {name: round(us, 2) for name, us in bounds.items()}
    if kernels:
        best = min(kernels, key=lambda name: kernels[name])
        result |= {
            "best": best,
            "times_lower_bounds": {name: round(kernels[best] / us, 2) for name, us in bounds.items()},
        }
        result["times_faster_than"] = {name: round(us / kernels[best], 1) for name, us in others.items()}
    return result


def bandwidth(rounds: int) -> float:
    """What a copy within the GPU's memory reaches, in GB/s, reading and writing counted."""
    import torch

    source = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    return 2 * source.numel() / statistics.median(timed(copy, rounds)) / 1e3


def timed(run: Callable[[], None], rounds: int, calls: int = 10) -> list[float]:
    """Microseconds per call, from replays of a CUDA graph of `calls` calls."""
    import torch

    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            run()
    times = []
    for _ in range(rounds + 3):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / calls)
    return times[3:]


def contestants(
    core: Core, extra: ctypes.CDLL, inputs: Inputs, dtype: str
) -> dict[str, Callable[[], Iterable[Contestant]]]:
    """What makes each implementation for this element type, and the sampling alone; by name."""
    makers: dict[str, Callable[[], Iterable[Contestant]]] = {"ours": lambda: ours(core, inputs, dtype)}
    if dtype == "float16":
        makers["gather only"] = lambda: [gather_only(core, extra, inputs)]
    makers["torchvision"] = lambda: [torchvision(inputs)]
    makers["im2col + cuBLAS"] = lambda: [im2col(extra, inputs, dtype)]
    return makers


def addresses(*tensors: Any) -> Tensors:
    """The addresses of torch tensors."""
    return Tensors(*(tensor.data_ptr() for tensor in tensors))


def current_stream() -> int:
    """torch's current CUDA stream, which changes while a graph is captured."""
    import torch

    return int(torch.cuda.current_stream().cuda_stream)


def uploaded(inputs: Inputs, *, channels_last: bool) -> list[Any]:
    """The inputs and an uninitialized output on the GPU."""
    import torch

    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, offset_mask, weight, bias = (torch.from_numpy(tensor).cuda() for tensor in inputs)
    x, offset_mask = x.contiguous(memory_format=layout), offset_mask.contiguous(memory_format=layout)
    return [x, offset_mask, weight, bias, torch.empty_like(x)]


def ours(core: Core, inputs: Inputs, dtype: str) -> Iterator[Contestant]:
    """Every kernel in both layouts."""
    import torch

    shape = Shape.of(inputs[0].shape, CHANNELS, ATTRIBUTES)
    for channels_last in (False, True):
        tensors = uploaded(inputs, channels_last=channels_last)
        for kernel in core.cuda_kernels(shape, dtype):
            workspace = torch.empty(core.cuda_workspace(shape, dtype), dtype=torch.uint8, device="cuda")

            def run(
                kernel: Kernel = kernel,
                tensors: Any = tensors,
                workspace: Any = workspace,
                channels_last: bool = channels_last,
            ) -> None:
                options: dict[str, Any] = {"channels_last": channels_last, "kernel": kernel}
                memory = {"workspace": workspace.data_ptr(), "stream": current_stream()}
                core.cuda(shape, dtype, addresses(*tensors), **options, **memory)

            name = kernel.name.lower().replace("_", " ")
            layout = "channels-last" if channels_last else "linear"
            yield Contestant(f"{name} {layout}", run, lambda out=tensors[4]: out.cpu().numpy())  # type: ignore[misc]


def gather_only(core: Core, extra: ctypes.CDLL, inputs: Inputs) -> Contestant:
    """The fused kernel's sampling, without the multiplication."""
    import torch

    shape = Shape.of(inputs[0].shape, CHANNELS, ATTRIBUTES)
    workspace = torch.zeros(core.cuda_workspace(shape, "float16"), dtype=torch.uint8, device="cuda")
    tensors = uploaded(inputs, channels_last=True)

    def run() -> None:
        pointers = ctypes.c_void_p(workspace.data_ptr()), ctypes.c_void_p(current_stream())
        check(extra.zsm_benchmark_gather(ctypes.byref(shape), ctypes.byref(addresses(*tensors)), *pointers))

    return Contestant("gather only", run, None)


def torchvision(inputs: Inputs) -> Contestant:
    """torchvision's operator; the sigmoid and the split are separate launches, as in real use."""
    import torch
    import torchvision

    x, offset_mask, weight, bias, _ = uploaded(inputs, channels_last=False)
    result: list[Any] = []

    def run() -> None:
        offset, mask = offset_mask[:, :144], torch.sigmoid(offset_mask[:, 144:])
        result[:] = [torchvision.ops.deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)]

    return Contestant("torchvision", run, lambda: result[0].cpu().numpy())


def im2col(extra: ctypes.CDLL, inputs: Inputs, dtype: str) -> Contestant:
    """im2col into global memory, then a cuBLAS multiplication, then the bias."""
    import torch

    shape = Shape.of(inputs[0].shape, CHANNELS, ATTRIBUTES)
    x, offset_mask, weight, bias, _ = uploaded(inputs, channels_last=False)
    columns = torch.empty((1, CHANNELS * 9, x.shape[2] * x.shape[3]), dtype=x.dtype, device=x.device)
    half = int(dtype == "float16")
    result: list[Any] = []

    def run() -> None:
        tensors, stream = addresses(x, offset_mask, weight, bias, columns), ctypes.c_void_p(current_stream())
        check(extra.zsm_benchmark_im2col(ctypes.byref(shape), half, ctypes.byref(tensors), stream))
        result[:] = [torch.matmul(weight.reshape(CHANNELS, -1), columns) + bias[:, None]]

    return Contestant("im2col + cuBLAS", run, lambda: result[0].cpu().numpy().reshape(inputs[0].shape))


def check(status: int) -> None:
    if status:
        raise RuntimeError(f"CUDA error {status}")


if __name__ == "__main__":
    main()
