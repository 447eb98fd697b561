"""How fast a bundle is here: seconds a frame, by stage, and memory."""

import statistics
import time
from collections import defaultdict
from typing import Any

import numpy as np

from zsm.engine import machine
from zsm.engine.runtime import Runtime
from zsm.engine.sizes import Size
from zsm.errors import Error


class BenchError(Error):
    """A measurement that can't be made."""


def measure(runtime: Runtime, size: Size, frames: int, repeats: int) -> dict[str, Any]:
    """Process `frames` random uint8 frames `repeats` times, after once for warming up; plain values for JSON.

    Times are in seconds, per output frame; `stages` says how much of it each stage took. `peak_rss_mib` is
    the most memory that this process has held since it began.
    """
    if frames < 1 or repeats < 1:
        raise BenchError(f"{frames} frames, {repeats} repeats: give at least 1 of each")
    clip = np.random.default_rng(0).integers(0, 256, (frames, size.height, size.width, 3), np.uint8)
    runtime(clip)
    outputs = 2 * frames - 1
    seconds: list[float] = []
    stages: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        with runtime.timing() as times:
            begin = time.perf_counter()
            runtime(clip)
            seconds.append((time.perf_counter() - begin) / outputs)
        for stage, taken in times.items():
            stages[stage].append(taken.seconds / outputs)
    return {
        "size": str(size),
        "frames": frames,
        "outputs": outputs,
        "repeats": repeats,
        "seconds_per_output": _summary(seconds),
        "stages": {stage: statistics.median(each) for stage, each in stages.items()},
        "peak_rss_mib": machine.peak_rss_mib(),
        "runtime": runtime.describe(),
        "machine": machine.describe(),
    }


def _summary(seconds: list[float]) -> dict[str, float]:
    return {"min": min(seconds), "median": statistics.median(seconds), "max": max(seconds)}
