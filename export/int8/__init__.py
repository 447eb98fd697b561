"""INT8: which layers of a network can be quantised within a loss of quality, and their graphs.

Every block's loss is measured on real clips with only that block quantised; blocks are admitted in the order of
arithmetic per loss, as many as a budget in dB allows. Weights are int8 per output channel, activations int8 per tensor
with zero point 0, as explicit QuantizeLinear and DequantizeLinear pairs. Everything else keeps the bundle's precision.

| module | contains |
|---|---|
| `samples` | windows of real clips, and their true frames |
| `trials` | the network with some stages replaced, scored on samples |
| `ranges` | histograms of activations, and three ways to choose a range |
| `graphs` | the pairs in a graph |
| `select` | losses, the order, the budget |
| `report` | the table and the plot |
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from zsm.engine.bundle.manifest import Bundle
from zsm.errors import ArgumentError
from zsm.export.int8 import trials
from zsm.export.int8.samples import Sample, read
from zsm.export.int8.select import BUDGET, Plan, Selection

__all__ = ["Int8Options", "Plan", "plan", "read"]


@dataclass(frozen=True, kw_only=True)
class Int8Options:
    """How to quantise. Raises ArgumentError for an impossible budget or unknown stages."""

    clips: Path
    """A folder of videos, or of folders of images, to calibrate on."""
    budget: float = BUDGET
    """Y-PSNR in dB that quantising may cost in the mean over the clips; a single one may lose three times as much."""
    stages: tuple[str, ...] = trials.ORDER
    """The stages that may be quantised."""

    def __post_init__(self) -> None:
        if not 0 < self.budget < inf:
            raise ArgumentError(
                f"the INT8 budget is {self.budget:g} dB; give more than 0, such as {BUDGET:g}, or 100 for all layers"
            )
        unknown = sorted(set(self.stages) - set(trials.ORDER))
        if unknown or not self.stages:
            raise ArgumentError(f"unknown stage {', '.join(unknown) or 'list'}; choose from {', '.join(trials.ORDER)}")


def plan(
    bundle: Bundle, samples: Sequence[Sample], options: Int8Options, progress: Callable[[str], None] = lambda _: None
) -> Plan:
    """Choose what to quantise of an FP32 bundle; this runs the network hundreds of times.

    Raises ArgumentError if the budget admits no layer, and OSError if the bundle's folder can't be written to.
    """
    return Selection(bundle, trials.Trials(bundle, samples), options.stages, progress).choose(options.budget)
