"""How large activations get, and the range that each int8 scale should cover.

ONNX Runtime's calibrators take a graph and its inputs; here the inputs are states of a recurrence that only the whole
network makes, so that ranges are collected while it runs.
"""

from collections import defaultdict
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from zsm.export.int8.graphs import Ranges, activations
from zsm.export.int8.trials import Trials

Method = Literal["minmax", "percentile", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)

BINS = 4096
LEVELS = 127
"""Magnitudes above zero that int8 represents."""
PERCENTILE = 99.999


class Histogram:
    """Counts of magnitudes, over a range that doubles when a larger one comes."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.largest = 0.0
        self._end = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        magnitudes = np.abs(values)
        largest = float(magnitudes.max(initial=0.0))
        self.largest = max(self.largest, largest)
        if self._end == 0:
            self._end = largest
        while self._end < largest:
            self._end *= 2
            self.counts[: BINS // 2] = self.counts.reshape(-1, 2).sum(1)
            self.counts[BINS // 2 :] = 0
        if self._end:
            self.counts += np.histogram(magnitudes, BINS, (0, self._end))[0]

    def limit(self, method: Method) -> float:
        """The magnitude that the scale should map to 127, by one of the methods."""
        if self.largest == 0:
            return 1.0  # a tensor that is always zero needs a scale all the same
        if method == "minmax":
            return self.largest
        edges = np.linspace(0, self._end, BINS + 1)
        if method == "percentile":
            covered = np.cumsum(self.counts) / self.counts.sum()
            return min(float(edges[1 + np.searchsorted(covered, PERCENTILE / 100)]), self.largest)
        middles = (edges[1:] + edges[:-1]) / 2
        candidates = self.largest * np.linspace(0.3, 1, 71)
        return float(min(candidates, key=lambda limit: _square_error(middles, self.counts, limit)))


def _square_error(values: NDArray[np.float64], counts: NDArray[np.int64], limit: float) -> float:
    scale = limit / LEVELS
    quantised = scale * np.clip(np.round(values / scale), 0, LEVELS)
    return float(np.dot(counts, np.square(values - quantised)))


def collect(trials: Trials, stages: set[str]) -> dict[Method, dict[str, Ranges]]:
    """The ranges of each stage's activations over all executions on the samples, by method and stage."""
    histograms: dict[str, dict[str, Histogram]] = {stage: defaultdict(Histogram) for stage in stages}
    wanted = {stage: activations(trials.models[stage]) for stage in stages}
    trials.observe(wanted, lambda stage, name, values: histograms[stage][name].add(values))
    return {
        method: {
            stage: {name: histogram.limit(method) for name, histogram in found.items()}
            for stage, found in histograms.items()
        }
        for method in METHODS
    }
