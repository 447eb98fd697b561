"""All ways to run bundles that work on this machine, side by side: time, memory, and distance from float32."""

import multiprocessing
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from zsm.engine.backends import measured
from zsm.engine.bundle.manifest import Bundle
from zsm.engine.bundle.shapes import Size
from zsm.engine.devices import ChosenPrecision
from zsm.engine.diagnose import machine, verify
from zsm.engine.runtime import Runtime
from zsm.errors import BackendError, Error


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to run a bundle."""

    bundle: str
    backend: str
    device: str = "cpu"
    precision: ChosenPrecision = "bundle"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured of a way to run a bundle, or why it doesn't work here."""

    way: Way
    seconds: float = 0.0
    """Per output frame, the median of the rounds."""
    peak_mib: float = 0.0
    """The most memory of a process that did nothing else."""
    psnr: float = 0.0
    """Of its frames, in dB, against those of the first bundle on ONNX Runtime's CPU provider."""
    fault: str = ""


def ways(bundle: str) -> list[Way]:
    """Every way to run a bundle; the first one is the reference."""
    return [
        Way(bundle=bundle, backend="onnxruntime"),
        Way(bundle=bundle, backend="openvino"),
        Way(bundle=bundle, backend="openvino", precision="bfloat16"),
        Way(bundle=bundle, backend="openvino", device="gpu:0"),
        Way(bundle=bundle, backend="openvino", device="npu"),
        Way(bundle=bundle, backend="onnxruntime", device="cuda:0"),
        Way(bundle=bundle, backend="tensorrt", device="cuda:0"),
    ]


def compare(
    bundles: Sequence[Bundle], size: Size, frames: int, rounds: int, threads: int | None = None
) -> Iterator[Result]:
    """Measure every way to run each bundle; those that don't work here are yielded first.

    The bundles hold one network in several precisions; the first is the reference. Each measurement has a process of
    its own, so that no other one's memory counts, and the ways take turns, so that a slower phase of the machine
    affects them all. What the CPU's backends took is remembered: `--backend auto` takes the fastest from then on. (With
    `threads` it isn't remembered.) Raises BackendError if the reference doesn't work.
    """
    clip = verify.pattern("float32", frames, size)
    seconds: dict[Way, list[float]] = {}
    memory: dict[Way, float] = {}
    outputs: dict[Way, NDArray[Any]] = {}
    for way in (way for bundle in bundles for way in ways(str(bundle.path))):
        try:
            taken, memory[way], outputs[way] = _alone(way, clip, threads)
        except (Error, ImportError) as error:
            if not outputs:
                raise BackendError(f"the reference doesn't work: {error}") from error
            yield Result(way=way, fault=str(error))
        else:
            seconds[way] = [taken]
    for _ in range(rounds - 1):
        for way, each in seconds.items():
            each.append(_alone(way, clip, threads)[0])
    medians = {way: statistics.median(each) for way, each in seconds.items()}
    if threads is None:
        for bundle in bundles:
            found = {way: medians[way] for way in ways(str(bundle.path)) if way in medians}
            measured.remember(bundle, {way.backend: taken for way, taken in found.items() if _is_automatic(way)})
    reference = next(iter(outputs.values()))
    for way, taken in medians.items():
        psnr = verify.compare("", reference, outputs[way], 1.0).psnr
        yield Result(way=way, seconds=taken, peak_mib=memory[way], psnr=psnr)


def _is_automatic(way: Way) -> bool:
    """Whether `--backend auto` could choose it on a CPU."""
    return (way.device, way.precision) == ("cpu", "bundle")


def _alone(way: Way, clip: NDArray[Any], threads: int | None) -> tuple[float, float, NDArray[Any]]:
    """Run in a new process; returns seconds per output frame, the process's peak memory in MiB, and the outputs."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        try:
            return process.submit(_run, way, clip, threads).result()
        except BrokenProcessPool as error:
            raise BackendError("its process died, probably for lack of memory") from error


def _run(way: Way, clip: NDArray[Any], threads: int | None) -> tuple[float, float, NDArray[Any]]:
    place: dict[str, Any] = {"device": way.device, "backend": way.backend, "precision": way.precision}
    with Runtime(way.bundle, threads=threads, **place) as runtime:
        runtime(clip)
        begin = time.perf_counter()
        outputs = runtime(clip)
        return (time.perf_counter() - begin) / len(outputs), machine.peak_rss_mib(), outputs
