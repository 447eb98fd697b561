"""Stages on TensorRT: engines from the cache, which share one block of memory for activations."""

import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from numpy.typing import DTypeLike

from zsm.engine.backends.gpu.backend import DeviceBackend
from zsm.engine.backends.gpu.cuda import Gpu, Stream
from zsm.engine.backends.gpu.tensor import Tensor
from zsm.engine.backends.tensorrt import bindings as library
from zsm.engine.backends.tensorrt.build import BuildOptions, build_missing, engine_stages
from zsm.engine.backends.tensorrt.cache import EngineCache, EngineKey
from zsm.engine.backends.tensorrt.progress import Progress
from zsm.engine.bundle.manifest import Bundle
from zsm.engine.bundle.shapes import Size, SizeRange
from zsm.engine.devices import Engine, Exchange, OpenOptions
from zsm.errors import BackendError

log = logging.getLogger("zsm")

SAY_EVERY = 30.0
"""Seconds between messages while engines are built."""


def open_bundle(bundle: Bundle, options: OpenOptions) -> DeviceBackend:
    """Open a bundle on a GPU. Engines are loaded, or built, when the size of the frames is known."""
    library.tensorrt()
    gpu = Gpu(options.device.index)
    cuda_stream = gpu.stream(options.cuda_stream)
    compiler = Engines(bundle, gpu, options.build, options.exchange)
    borrowed = options.cuda_stream is not None
    return DeviceBackend(gpu, cuda_stream, compiler, borrowed=borrowed, cuda_graphs=options.cuda_graphs)


def best(keys: list[EngineKey], size: Size) -> EngineKey | None:
    """Choose the engine for a size: the narrowest range that includes it, then the first of `keys`."""
    ranges = [(SizeRange.from_dict(key.sizes), key) for key in keys]
    fitting = [(sizes.max.pixels - sizes.min.pixels, key) for sizes, key in ranges if size in sizes]
    return min(fitting, key=lambda each: each[0])[1] if fitting else None


def find_best(cache: EngineCache, asked: EngineKey) -> Engine | None:
    """Read the best engine for the size that a key asks for; None if there is none, or it is damaged."""
    key = best(cache.similar(asked), Size.parse(asked.sizes["opt"]))
    content = None if key is None else cache.find(key)
    return None if key is None or content is None else (asdict(key), content)


class Engines:
    """A bundle's engines on one GPU."""

    recordable = True
    uint16 = False

    def __init__(self, bundle: Bundle, gpu: Gpu, build: bool, exchange: Exchange | None = None) -> None:
        self._bundle = bundle
        self._gpu = gpu
        self._build = build
        self._exchange = exchange
        self._cache = EngineCache()
        self._runtime = library.tensorrt().Runtime(library.logger())
        self._engines: dict[str, tuple[Any, str]] = {}
        """Each engine and its checksum, by its key's digest."""
        self._stages: dict[tuple[str, Size], TensorRtStage] = {}
        self._memory = (0, 0)
        self._used: dict[str, dict[str, Any]] = {}
        self._builds: dict[str, str] = {}

    def load(self, size: Size) -> "dict[str, TensorRtStage]":
        """Load the stages for a size; raises BackendError, which names the command, if engines are missing."""
        found = self._find(size)
        if self._build and None in found.values():
            log.warning("building TensorRT engines for %s on %s: this takes minutes, once", size, self._gpu.name)
            build_missing(self._bundle, self._gpu, BuildOptions(sizes=SizeRange.only(size)), _ProgressLog())
            found = self._find(size)
        missing = [stage for stage, executable in found.items() if executable is None]
        if missing:
            raise BackendError(
                f"there is no TensorRT engine of {', '.join(missing)} for {size} on {self._gpu.name}; "
                f"run: zsm build {self._bundle.path} --device cuda:{self._gpu.index} --size {size}"
            )
        self._share_memory()
        return {stage: executable for stage, executable in found.items() if executable is not None}

    def describe(self) -> dict[str, Any]:
        """Report what executes, with the sizes and options of the engines loaded last, and the checksums of all."""
        return {
            "backend": "tensorrt",
            "version": library.tensorrt().__version__,
            "device": f"cuda:{self._gpu.index}",
            "gpu": self._gpu.name,
            "driver": self._gpu.driver,
            "cuda": self._gpu.cuda,
            "engines": self._used,
            "builds": self._builds,
        }

    def close(self) -> None:
        """Release the engines and their memory."""
        self._stages.clear()
        self._engines.clear()
        if self._memory[0]:
            self._gpu.free(self._memory[0])

    def _find(self, size: Size) -> dict[str, "TensorRtStage | None"]:
        found: dict[str, TensorRtStage | None] = {}
        for stage in engine_stages(self._bundle.manifest):
            options = BuildOptions(sizes=SizeRange.only(size))
            asked = EngineKey.of(self._bundle, stage, self._gpu, options.sizes, options.to_dict())
            engine = find_best(self._cache, asked)
            if self._exchange is not None:
                engine = self._exchange.settle(asdict(asked), engine)
            found[stage] = None if engine is None else self._open(EngineKey(**engine[0]), engine[1], size)
        return found

    def _open(self, key: EngineKey, content: bytes, size: Size) -> "TensorRtStage":
        """Make a stage with a context of its own: CUDA graphs need one that never sees another shape."""
        self._used[key.stage] = {"sizes": key.sizes, **key.options}
        if key.digest not in self._engines:
            engine = self._runtime.deserialize_cuda_engine(content)
            if engine is None:
                raise library.failure(f"TensorRT can't load the engine of stage {key.stage}")
            self._engines[key.digest] = engine, hashlib.sha256(content).hexdigest()
        engine, self._builds[f"{key.stage} for {size} on {self._gpu.name}"] = self._engines[key.digest]
        if (key.digest, size) not in self._stages:
            self._stages[key.digest, size] = TensorRtStage(key.stage, engine)
        return self._stages[key.digest, size]

    def _share_memory(self) -> None:
        """Let all stages use the same memory for activations: they run one after the other."""
        address, size = self._memory
        needed = max(1, *(stage.memory for stage in self._stages.values()))
        if needed > size:
            self._memory = (self._gpu.allocate(needed), needed)
        for stage in self._stages.values():
            stage.use_memory(*self._memory)
        if needed > size and address:
            self._gpu.free(address)


class TensorRtStage:
    """An engine with a context, for frames of one size."""

    def __init__(self, name: str, engine: Any) -> None:
        trt = library.tensorrt()
        self._name = name
        self._engine = engine
        self._context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if self._context is None:
            raise library.failure(f"TensorRT can't prepare stage {name}")
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        for tensor in names:
            self._check_format(trt, tensor)
        outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
        self._types = {name: trt.nptype(engine.get_tensor_dtype(name)) for name in outputs}
        self.memory = int(engine.device_memory_size_v2)

    def _check_format(self, trt: Any, tensor: str) -> None:
        """Stages pass tensors on to each other, so all must have the layout that their shapes say."""
        found = self._engine.get_tensor_format(tensor)
        if found != trt.TensorFormat.LINEAR:
            raise BackendError(
                f"the engine of stage {self._name} has {tensor} in the format {found.name}, must be LINEAR; "
                "build it again: zsm cache clear, then zsm build"
            )

    def use_memory(self, address: int, size: int) -> None:
        """Set the memory for activations."""
        self._context.set_device_memory(address, size)

    def bind(self, inputs: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], DTypeLike]]:
        """Set the inputs; returns the outputs' shapes and dtypes."""
        for name, tensor in inputs.items():
            shaped = self._context.set_input_shape(name, tensor.shape)
            if not (shaped and self._context.set_tensor_address(name, tensor.address)):
                raise library.failure(f"stage {self._name} doesn't take {name} of shape {tensor.shape}")
        missing = self._context.infer_shapes()
        if missing:
            raise library.failure(f"stage {self._name} lacks {', '.join(missing)}")
        return {name: (tuple(self._context.get_tensor_shape(name)), kind) for name, kind in self._types.items()}

    def enqueue(self, outputs: Mapping[str, Tensor], stream: Stream) -> None:
        """Execute into the outputs, on the stream."""
        for name, tensor in outputs.items():
            self._context.set_tensor_address(name, tensor.address)
        if not self._context.execute_async_v3(stream.handle):
            raise library.failure(f"stage {self._name} failed")

    def profile(self, spent: dict[str, float]) -> None:
        """Add up each layer's milliseconds from now on, which makes every execution slower."""
        trt = library.tensorrt()

        class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
            """Called by TensorRT after each execution."""

            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                spent[layer_name] = spent.get(layer_name, 0.0) + ms

        self._profiler = Profiler()
        self._context.profiler = self._profiler


class _ProgressLog:
    """Logs a build's progress every now and then."""

    def __init__(self) -> None:
        self._next = time.monotonic() + SAY_EVERY

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + SAY_EVERY
        left = "" if progress.remaining is None else f", about {progress.remaining / 60:.0f} minutes to go"
        log.warning("building stage %s, %.0f%% in total%s", progress.stage, 100 * progress.fraction, left)
