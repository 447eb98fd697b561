"""How fast a bundle is here: seconds a frame, by stage, latency, and memory."""

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
    """Process `frames` random uint8 frames `repeats` times, after once for warming up; plain values for JSON.

    Times are in seconds, per output frame; `stages` says what each stage takes when nothing else goes on.
    `latency`: of a live stream, how many further frames an output waits for at most, and the milliseconds from the
    arrival of the last of them to the output. `peak_rss_mib` is the most memory that this process has held since
    it began.
    """
    if frames < 1 or repeats < 1:
        raise ArgumentError(f"{frames} frames, {repeats} repeats: give at least 1 of each")
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
    """Seconds from the reading of the last frame before it to each output, of frames that come live."""
    read = 0.0

    def frames() -> Iterator[Pixels]:
        nonlocal read
        for frame in clip:
            read = time.perf_counter()
            yield frame

    return [time.perf_counter() - read for _ in runtime.stream(frames(), live=True)]


def _summary(seconds: list[float]) -> dict[str, float]:
    return {"min": min(seconds), "median": statistics.median(seconds), "max": max(seconds)}
