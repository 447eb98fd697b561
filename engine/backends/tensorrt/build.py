"""Building TensorRT engines from a bundle: one per stage, strongly typed, kept in the cache."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from zsm.engine.backends.gpu.cuda import Gpu
from zsm.engine.backends.tensorrt import bindings as library
from zsm.engine.backends.tensorrt.cache import EngineCache, EngineKey, write
from zsm.engine.backends.tensorrt.progress import BuildProgress, Listener
from zsm.engine.bundle.manifest import OUTPUT_SIZE, Bundle, Manifest
from zsm.engine.bundle.shapes import Shape, SizeRange, input_shapes
from zsm.engine.devices import Device
from zsm.errors import ArgumentError, BackendError

log = logging.getLogger("zsm")

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How engines are built."""

    sizes: SizeRange
    workspace: int | None = None
    """The most MiB that a layer may use for itself; None for all the GPU has."""
    tf32: bool = False
    """Whether float32 may be computed with 10 bits of mantissa."""

    def __post_init__(self) -> None:
        if self.workspace is not None and self.workspace < 1:
            raise ArgumentError(f"workspace must be at least 1 MiB, got {self.workspace}")

    def to_dict(self) -> dict[str, Any]:
        """The options other than the sizes, in plain values."""
        return {"workspace": self.workspace, "tf32": self.tf32}


@dataclass(frozen=True, kw_only=True)
class Built:
    """An engine of a bundle."""

    stage: str
    digest: str
    bytes: int
    seconds: float
    """How long building it took; 0 if it was in the cache."""


def engine_stages(manifest: Manifest) -> list[str]:
    """The stages that become engines: TensorRT has no 16-bit integers, `DeviceBackend` converts them on the host."""
    return [stage for stage in manifest.stages if not stage.endswith("_uint16")]


def build_engines(bundle: Bundle, device: str, options: BuildOptions, listener: Listener) -> list[Built]:
    """Build the engines that aren't in the cache; an interruption keeps the finished ones.

    Raises ArgumentError for a device that isn't a GPU, BackendError if building fails, and CacheError.
    """
    where = Device.parse(device)
    if where.kind != "cuda":
        raise ArgumentError(f"engines are for GPUs, not for {device}; give --device cuda:N (the CPU needs none)")
    library.tensorrt()
    return build_missing(bundle, Gpu(where.index), options, listener)


def build_missing(bundle: Bundle, gpu: Gpu, options: BuildOptions, listener: Listener) -> list[Built]:
    """Do what `build_engines` does, for an open GPU."""
    cache = EngineCache()
    keys = {
        stage: EngineKey.of(bundle, stage, gpu, options.sizes, options.to_dict())
        for stage in engine_stages(bundle.manifest)
    }
    progress = BuildProgress({stage: bundle.stage(stage).bytes + 1e5 for stage in keys}, listener)
    built = []
    for stage, key in keys.items():
        progress.stage(stage)
        timing = cache.timing_file(key.gpu, key.capability, key.tensorrt)
        builder = _Builder(bundle, stage, options, timing, progress)
        content = cache.find_or_build(key, builder.build)
        built.append(Built(stage=stage, digest=key.digest, bytes=len(content), seconds=builder.seconds))
    progress.finish()
    return built


def profile_shapes(manifest: Manifest, stage: str, sizes: SizeRange) -> dict[str, tuple[Shape, Shape, Shape]]:
    """Each input's shape (for a size input, its values) at the smallest, best and largest size."""
    low, best, high = (input_shapes(manifest, stage, size) for size in (sizes.min, sizes.opt, sizes.max))
    return {name: (low[name], best[name], high[name]) for name in best}


def parser_input(content: bytes) -> bytes:
    """Remove functions from a graph: TensorRT's parser would prefer them to the plugin."""
    model = onnx.load_from_string(content)
    del model.functions[:]
    stripped: bytes = model.SerializeToString(deterministic=True)
    return stripped


class _Builder:
    """Builds one stage's engine."""

    def __init__(
        self, bundle: Bundle, stage: str, options: BuildOptions, timing: Path, progress: BuildProgress
    ) -> None:
        self._bundle = bundle
        self._stage = stage
        self._options = options
        self._timing = timing
        self._progress = progress
        self.seconds = 0.0

    def build(self) -> bytes:
        """Build the serialized engine; raises BackendError with TensorRT's reason."""
        begin = time.monotonic()
        trt = library.tensorrt()
        library.errors.clear()
        builder = trt.Builder(library.logger())
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = self._parse(trt, network)
        config = builder.create_builder_config()
        timings = self._configure(trt, config, builder.create_optimization_profile())
        with _interruptible() as stopped:
            monitor = progress_monitor(trt, self._progress, stopped)
            config.progress_monitor = monitor
            engine = builder.build_serialized_network(network, config)
        del parser  # which owned the network's weights
        if engine is None:
            raise library.failure(self._failure(trt))
        write(self._timing, bytes(timings.serialize()))
        self.seconds = time.monotonic() - begin
        return bytes(engine)

    def _parse(self, trt: Any, network: Any) -> Any:
        parser = trt.OnnxParser(network, library.logger())
        if not parser.parse(parser_input(self._bundle.read(self._stage))):
            said = [parser.get_error(i) for i in range(parser.num_errors)]
            reasons = "; ".join(f"{error.desc()} (node {error.node_name()})" for error in said)
            raise BackendError(f"TensorRT {trt.__version__} can't read stage {self._stage}: {reasons}")
        for tensor in _inputs_and_outputs(network):
            tensor.allowed_formats = 1 << int(trt.TensorFormat.LINEAR)  # any, by default; see TensorRtStage
        return parser

    def _failure(self, trt: Any) -> str:
        what = f"TensorRT {trt.__version__} can't build stage {self._stage}"
        workspace = self._options.workspace
        return what if workspace is None else f"{what} in {workspace} MiB; give a larger --workspace, or none"

    def _configure(self, trt: Any, config: Any, profile: Any) -> Any:
        """Set all options; returns the timing cache, which must outlive the build."""
        options = self._options
        if not options.tf32:
            config.clear_flag(trt.BuilderFlag.TF32)
        if options.workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace * MIB)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        self._set_shapes(profile)
        config.add_optimization_profile(profile)
        timings = config.create_timing_cache(self._timing.read_bytes() if self._timing.is_file() else b"")
        if not config.set_timing_cache(timings, False):
            log.info("%s was made for another GPU or TensorRT; measuring again", self._timing)
            timings = config.create_timing_cache(b"")
            config.set_timing_cache(timings, False)
        return timings

    def _set_shapes(self, profile: Any) -> None:
        manifest = self._bundle.manifest
        for name, (low, best, high) in profile_shapes(manifest, self._stage, self._options.sizes).items():
            if name == OUTPUT_SIZE:
                profile.set_shape_input(name, low, best, high)
            else:
                profile.set_shape(name, low, best, high)


def _inputs_and_outputs(network: Any) -> list[Any]:
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    return inputs + [network.get_output(i) for i in range(network.num_outputs)]


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Set the event on Ctrl-C, and raise KeyboardInterrupt at the end: no exception may pass through TensorRT."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: stopped.set())
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)
    if stopped.is_set():
        raise KeyboardInterrupt


def progress_monitor(trt: Any, progress: BuildProgress, stopped: threading.Event) -> Any:
    """Adapt a progress to TensorRT's interface; once the event is set, the build ends at its next step."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Called by TensorRT, from any of its threads."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.phase_start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress.step_complete(phase_name, step)
            return not stopped.is_set()

        def phase_finish(self, phase_name: str) -> None:
            progress.phase_finish(phase_name)

    return Monitor()
