"""The full-size network in PyTorch on a GPU: with torchvision's operator, and with this project's fused kernel.

    python benchmarks/pytorch.py --size 480x270 --build build/gpu

`fused` calls the kernel through its C interface, on FP16 tensors with channels innermost; `fused-graph` replays that as
a CUDA graph, so that launching costs nothing. `torchvision` is the network as papers run it, with linear tensors.
Frames are on the GPU already, and windows of four share no features. Times are per output frame: a window's time
divided by six. It computes seven, but the first is also the last of the window before. Needs only numpy and torch with
CUDA, and torchvision for its operator.

Untrained offset convolutions give no offsets, which would be too easy. Theirs get random weights; the mean offset in
pixels is reported.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from deform_conv import Size  # type: ignore[import-not-found]
from torch import Tensor

from zsm.engine.diagnose import machine
from zsm.export.model import Network, NetworkConfig, deform_conv
from zsm.plugins.native import Attributes, Core, Kernel, Shape, Tensors

CONTESTANTS = ("fused-graph", "fused", "torchvision")
WINDOW = 4
OUTPUTS = 2 * (WINDOW - 1)
SMALL = (48, 64)
"""Height and width at which the outputs are compared with those of torch's own operators."""
OFFSET_WEIGHTS = 5.0
"""Their standard deviation; gives offsets of about 1.8 pixels."""

Operator = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=Size.parse, default=Size(480, 270), help="WxH")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--contestants", choices=CONTESTANTS, nargs="+", default=CONTESTANTS)
    parser.add_argument("--config", default="{}", help="the network's settings as JSON (default: full size)")
    parser.add_argument("--build", type=Path, default=Path("build/gpu"), help="where the gpu preset was built")
    args = parser.parse_args()
    about = {**machine.describe(), "gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    print(json.dumps({"name": "machine", **about, "cuda": torch.version.cuda}), flush=True)
    torch.backends.cudnn.benchmark = True
    network = random_network(NetworkConfig.from_dict(json.loads(args.config)))
    width, height = (extent + -extent % 4 for extent in args.size)
    for name in args.contestants:
        try:
            result = measure(name, network, height, width, args)
        except Exception as failure:  # the others are measured all the same
            result = {"failed": f"{type(failure).__name__}: {failure}".partition("\n")[0]}
        print(json.dumps({"size": str(args.size), "name": name, **result}), flush=True)


def random_network(config: NetworkConfig) -> Network:
    torch.manual_seed(0)
    network = Network(config).eval().to("cuda", torch.float16)
    for name, parameter in network.named_parameters():
        if "offset_mask.weight" in name:
            torch.nn.init.normal_(parameter, std=OFFSET_WEIGHTS)
    return network


def measure(name: str, network: Network, height: int, width: int, args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds per output frame: the rounds' minimum, median and maximum."""
    operator = torchvision_operator() if name == "torchvision" else FusedKernel(Core(args.build / "lib/libzsm_core.so"))
    layout = torch.contiguous_format if name == "torchvision" else torch.channels_last
    network.to(memory_format=layout)  # type: ignore[call-overload]
    for module in network.modules():
        if isinstance(module, deform_conv.DeformConv2d):
            module.weight.data = module.weight.data.contiguous()  # always linear for the kernel
    torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode():
        small, frames = (torch.rand(1, WINDOW, 3, *size, device="cuda").half() for size in (SMALL, (height, width)))
        recorder = Recorder(deform_conv.deform_conv2d_plain)
        expected = run(network, recorder, small)
        error = (run(network, operator, small) - expected).float().norm() / expected.float().norm()
        once = recorded(network, operator, frames) if name == "fused-graph" else lambda: run(network, operator, frames)
        milliseconds = timed(once, args.rounds)
    return {
        "milliseconds": {
            "min": round(min(milliseconds), 3),
            "median": round(statistics.median(milliseconds), 3),
            "max": round(max(milliseconds), 3),
        },
        "error": float(error),
        "mean_offset": recorder.mean_offset,
        "memory_mib": torch.cuda.max_memory_allocated() // 2**20,
        **({"kernel": operator.kernel.name} if isinstance(operator, FusedKernel) else {}),
    }


def run(network: Network, operator: Operator, frames: Tensor) -> Tensor:
    """The network's output, with an implementation of the operator."""
    with mock.patch.object(deform_conv, "deform_conv2d", operator):
        output: Tensor = network(frames)
        return output


def recorded(network: Network, operator: Operator, frames: Tensor) -> Callable[[], object]:
    """The network as a CUDA graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run(network, operator, frames)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run(network, operator, frames)
    return graph.replay


def timed(once: Callable[[], object], rounds: int) -> list[float]:
    times = []
    for _ in range(rounds + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        once()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / OUTPUTS)
    return times[2:]


def torchvision_operator() -> Operator:
    """Raises ImportError or RuntimeError if torchvision is absent or doesn't go with this torch."""
    from torchvision.ops import deform_conv2d

    def operator(x: Tensor, offset_mask: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
        offset, logit = offset_mask.split([2 * deform_conv.TAPS * groups, deform_conv.TAPS * groups], dim=1)
        output: Tensor = deform_conv2d(x, offset, weight, bias, padding=1, mask=logit.sigmoid())
        return output

    return operator


class Recorder:
    """Another implementation, and the mean offset it was called with."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._means: list[Tensor] = []

    def __call__(self, x: Tensor, offset_mask: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
        self._means.append(offset_mask[:, : 2 * deform_conv.TAPS * groups].float().abs().mean())
        return self._operator(x, offset_mask, weight, bias, groups)

    @property
    def mean_offset(self) -> float:
        return round(float(torch.stack(self._means).mean()), 2)


class FusedKernel:
    """The operator on FP16 tensors with channels innermost, through the C interface."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.kernel = Kernel.AUTO
        """The kernel of the last call."""

    def __call__(self, x: Tensor, offset_mask: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
        shape = Shape.of(tuple(x.shape), len(weight), Attributes(offset_group=groups))
        self.kernel = self._core.cuda_kernels(shape, "float16")[0]
        x, offset_mask = (t.contiguous(memory_format=torch.channels_last) for t in (x, offset_mask))
        out = torch.empty_like(x)
        tensors = Tensors(*(t.data_ptr() for t in (x, offset_mask, weight, bias, out)))
        workspace = torch.empty(self._core.cuda_workspace(shape, "float16"), dtype=torch.uint8, device=x.device)
        stream = torch.cuda.current_stream().cuda_stream
        memory = {"workspace": workspace.data_ptr(), "stream": stream}
        self._core.cuda(shape, "float16", tensors, channels_last=True, kernel=self.kernel, **memory)
        return out


if __name__ == "__main__":
    main()
