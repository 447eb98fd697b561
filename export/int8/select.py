"""Which layers become int8: the loss of each is measured, and they are admitted by gain per loss within a budget."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import prod
from statistics import mean

from onnx import ModelProto

from zsm.engine.bundle.manifest import Bundle, Quantisation, QuantisedBlock, TensorSpec
from zsm.engine.bundle.shapes import Size, shape_of, symbols
from zsm.errors import ArgumentError
from zsm.export.int8 import graphs, ranges
from zsm.export.int8.trials import ORDER, Scores, Trials

BUDGET = 0.1
"""Y-PSNR in dB that quantising may cost in the mean over the calibration clips."""

WORST = 3.0
"""How many times the budget a single clip may lose."""

NOISE = 1e-3
"""dB; blocks that lose less than this are ordered by what they gain."""

Progress = Callable[[str], None]

Key = tuple[str, str]
"""A stage and a block of it."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Layers that are quantised together."""

    nodes: list[str]
    share: float
    """Part of the network's arithmetic, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to quantise: convolutions and ranges by stage, and how they were chosen."""

    convolutions: Mapping[str, list[str]]
    ranges: Mapping[str, graphs.Ranges]
    quantisation: Quantisation

    def apply(self, stage: str, model: ModelProto) -> ModelProto:
        """Return a stage's graph, in FP32 or FP16, with its chosen layers in int8."""
        return graphs.quantise(model, self.convolutions.get(stage, ()), self.ranges.get(stage, {}))


@dataclass(frozen=True)
class Loss:
    """What quantising costs, in dB of Y-PSNR."""

    mean: float
    worst: float

    def within(self, budget: float) -> bool:
        return self.mean <= budget and self.worst <= WORST * budget


class Selection:
    """Measures losses on samples, and chooses."""

    def __init__(self, bundle: Bundle, trials: Trials, stages: Collection[str], progress: Progress) -> None:
        self._trials = trials
        self._progress = progress
        self.blocks = blocks(bundle, trials, stages)
        if not self.blocks:
            raise ArgumentError(
                f"the network has no {' or '.join(sorted(stages))}; choose stages of {', '.join(trials.models)}"
                " (--int8-stages)"
            )
        self._before = trials.psnr({})

    def choose(self, budget: float) -> Plan:
        """Choose blocks within a budget in dB; raises ArgumentError if it admits none."""
        self._progress("collecting ranges")
        method, found = self._best(ranges.collect(self._trials, {stage for stage, _ in self.blocks}))
        losses = {}
        for number, key in enumerate(self.blocks, start=1):
            self._progress(f"measuring block {number} of {len(self.blocks)}: {' '.join(key)}")
            losses[key] = self._loss([key], found)
        fitting = [key for key in self.blocks if losses[key].within(budget)]
        if not fitting:
            least = min(each.mean for each in losses.values())
            raise ArgumentError(
                f"no layer can be int8 within {budget:g} dB: the most tolerant one loses {least:.3f} dB; "
                "allow more (--int8-budget)"
            )
        order = sorted(fitting, key=lambda key: self.blocks[key].share / max(losses[key].mean, NOISE), reverse=True)
        admitted, loss = self._longest_prefix(order, found, budget)
        return Plan(
            convolutions=self._nodes(admitted),
            ranges=found,
            quantisation=Quantisation(
                method=method,
                budget=budget,
                loss=loss.mean,
                worst=loss.worst,
                blocks=tuple(
                    QuantisedBlock(
                        stage=stage,
                        block=name,
                        layers=len(block.nodes),
                        share=block.share,
                        loss=losses[stage, name].mean,
                        worst=losses[stage, name].worst,
                        admitted=(stage, name) in admitted,
                    )
                    for (stage, name), block in self.blocks.items()
                ),
            ),
        )

    def _best(
        self, by_method: Mapping[ranges.Method, Mapping[str, graphs.Ranges]]
    ) -> tuple[ranges.Method, Mapping[str, graphs.Ranges]]:
        """The method whose ranges lose least when every block is int8."""
        losses = {}
        for method, found in by_method.items():
            self._progress(f"trying ranges by {method}")
            losses[method] = self._loss(self.blocks, found).mean
        method = min(losses, key=lambda each: losses[each])
        return method, by_method[method]

    def _longest_prefix(
        self, order: list[Key], found: Mapping[str, graphs.Ranges], budget: float
    ) -> tuple[list[Key], Loss]:
        """The largest number of blocks in this order that stays within the budget, by bisection, and their loss."""
        best: tuple[list[Key], Loss] = ([], Loss(0, 0))
        low, high = 0, len(order)
        middle = high
        while low < high:
            self._progress(f"trying the {middle} blocks with most gain per loss")
            loss = self._loss(order[:middle], found)
            if loss.within(budget):
                best, low = (order[:middle], loss), middle
            else:
                high = middle - 1
            middle = (low + high + 1) // 2
        return best

    def _nodes(self, chosen: Collection[Key]) -> dict[str, list[str]]:
        nodes: dict[str, list[str]] = defaultdict(list)
        for stage, name in chosen:
            nodes[stage] += self.blocks[stage, name].nodes
        return nodes

    def _loss(self, chosen: Collection[Key], found: Mapping[str, graphs.Ranges]) -> Loss:
        models = {
            stage: graphs.quantise(self._trials.models[stage], nodes, found[stage])
            for stage, nodes in self._nodes(chosen).items()
        }
        after: Scores = self._trials.psnr(models)
        losses = [self._before[clip] - psnr for clip, psnr in after.items()]
        return Loss(mean(losses), max(losses))


def blocks(bundle: Bundle, trials: Trials, stages: Collection[str]) -> dict[Key, Block]:
    """The blocks of some stages in order, with their parts of the network's arithmetic for one window."""
    window = len(trials.samples[0].lr)
    outputs = 2 * window - 1
    recurrence = outputs * bundle.network.directions
    calls = dict(zip(ORDER, (window, window - 1, recurrence, outputs), strict=True))
    total = sum(calls[name] * bundle.manifest.stages[name].flop_per_pixel for name in trials.models)
    size = Size(64, 64)
    known = symbols(size, 1)
    found: dict[Key, Block] = {}
    for stage in trials.models:
        if stage not in stages:
            continue
        flop = _flop(trials.models[stage], known, size)
        for layer in graphs.layers(trials.models[stage]):
            share = calls[stage] * flop[layer.node] / total
            before = found.get((stage, layer.block), Block(nodes=[], share=0.0))
            found[stage, layer.block] = Block(nodes=[*before.nodes, layer.node], share=before.share + share)
    return found


def _flop(model: ModelProto, known: Mapping[str, int], size: Size) -> dict[str, float]:
    """Floating-point operations of each convolution per LR pixel; a multiply-add is two."""
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes = {
        value.name: tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*model.graph.value_info, *model.graph.output)
    }
    flop = {}
    for node in model.graph.node:
        if node.op_type == "Conv":
            _, _, height, width = shape_of(TensorSpec(name="", dtype="", shape=shapes[node.output[0]]), known)
            flop[node.name] = 2 * height * width * prod(weights[node.input[1]]) / size.pixels
    return flop
