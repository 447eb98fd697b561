"""Benchmark: time per output frame, time per stage, latency and memory."""

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from zsm.engine.bundle.shapes import Size
from zsm.engine.diagnose import machine
from zsm.engine.runtime import Runtime
from zsm.errors import ArgumentError
from zsm.runtime import Pixels


def measure(runtime: Runtime, size: Size, frames: int, repeats: int) -> dict[str, Any]:
    """Restore a clip of `frames` random uint8 frames `repeats` times, after a warm-up; returns plain values for JSON.

    `seconds_per_output` is the whole pipeline's time per output frame, `stages` each stage's time per output frame
    when the stages are run one at a time. `latency` describes a live stream: the most input frames that an output waits
    for, and the milliseconds from the last of them to the output. `peak_rss_mib` is this process's peak memory.

    Raises ArgumentError unless `frames` and `repeats` are at least 1.
    """
    if frames < 1 or repeats < 1:
        raise ArgumentError(f"frames and repeats must be at least 1, got {frames} and {repeats}")
    clip = np.random.default_rng(0).integers(0, 256, (frames, size.height, size.width, 3), np.uint8)
    runtime(clip)
    outputs = 2 * frames - 1
    seconds: list[float] = []
    waits: list[float] = []
    stages: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        begin = time.perf_counter()
        runtime(clip)
        seconds.append((time.perf_counter() - begin) / outputs)
        waits += _waits(runtime, clip)
        with runtime.timing() as times:
            runtime(clip)
        for stage, taken in times.items():
            stages[stage].append(taken.seconds / outputs)
    return {
        "size": str(size),
        "frames": frames,
        "outputs": outputs,
        "repeats": repeats,
        "seconds_per_output": _summary(seconds),
        "stages": {stage: statistics.median(each) for stage, each in stages.items()},
        "latency": {"frames": runtime.latency, "milliseconds": _summary([1000 * wait for wait in waits])},
        "peak_rss_mib": machine.peak_rss_mib(),
        "runtime": runtime.describe(),
        "machine": machine.describe(),
    }


def _waits(runtime: Runtime, clip: Pixels) -> list[float]:
    """For each output of a live stream, the seconds since the last input frame was read."""
    read = 0.0

    def frames() -> Iterator[Pixels]:
        nonlocal read
        for frame in clip:
            read = time.perf_counter()
            yield frame

    return [time.perf_counter() - read for _ in runtime.stream(frames(), live=True)]


def _summary(seconds: list[float]) -> dict[str, float]:
    return {"min": min(seconds), "median": statistics.median(seconds), "max": max(seconds)}
