"""Time a training step of a configuration: as ordinary PyTorch and, on a GPU, replayed as a CUDA graph.

    python benchmarks/training_step.py training/configs/compact.toml [--device cuda] [--batch 64] [--steps 20]

Examples are random and lie on the device, and the weights are new, so that only the step is timed. Prints JSON.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from zsm.engine.diagnose import machine
from zsm.runtime import SCALE
from zsm.training import config, distributed, initial
from zsm.training.config import TrainingConfig
from zsm.training.distributed import Processes
from zsm.training.footage import SEPTUPLET
from zsm.training.step import Batch, Step

WARM_UP = 5
RATE = 1e-4


def examples(settings: TrainingConfig, device: torch.device) -> Batch:
    batch, outputs, crop = settings.optimiser.batch, settings.data.outputs, settings.data.crop
    lr = torch.randint(256, (batch, SEPTUPLET, 3, crop, crop), dtype=torch.uint8, device=device)
    hr = torch.randint(256, (batch, outputs, 3, SCALE * crop, SCALE * crop), dtype=torch.uint8, device=device)
    times = torch.stack([torch.randperm(SEPTUPLET, device=device)[:outputs].sort().values for _ in range(batch)])
    return lr[:, ::2].contiguous(), lr, hr, times


def measure(settings: TrainingConfig, processes: Processes, steps: int, *, capture: bool) -> float:
    """Seconds for a step: the mean of `steps` in a row."""
    network = initial.network(settings.network, replace(settings.start, weights=None, keep=0.0))
    step = Step(settings, network, processes, capture=capture)
    batch = examples(settings, processes.device)
    for _ in range(WARM_UP):
        step(batch, RATE).total.item()
    started = time.perf_counter()
    for _ in range(steps):
        losses = step(batch, RATE)
    losses.total.item()  # waits for the GPU
    return (time.perf_counter() - started) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, help="default: the configuration's")
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    settings = config.load(args.config)
    if args.batch:
        settings = replace(settings, optimiser=replace(settings.optimiser, batch=args.batch))
    with distributed.join(args.device) as processes:
        gpu = processes.device.type == "cuda"
        seconds = {"PyTorch": measure(settings, processes, args.steps, capture=False)}
        if gpu:
            seconds["CUDA graph"] = measure(settings, processes, args.steps, capture=True)
        record = {
            "machine": machine.describe(),
            "device": torch.cuda.get_device_name() if gpu else f"cpu, {torch.get_num_threads()} threads",
            "torch": torch.__version__,
            "config": str(args.config),
            "batch": settings.optimiser.batch,
            "precision": settings.run.precision,
            "steps": args.steps,
            "seconds": seconds,
            "septuplets_per_second": {name: settings.optimiser.batch / value for name, value in seconds.items()},
        }
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
