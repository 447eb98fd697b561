"""`Runtime`: a bundle that is ready to process frames."""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, overload

import numpy as np

from zsm.engine import host
from zsm.engine.backends import open_backend
from zsm.engine.backends.gpu.frames import DeviceFrame
from zsm.engine.backends.timed import StageTime, TimedBackend
from zsm.engine.bundle.manifest import Bundle
from zsm.engine.devices import CLOSED, ChosenPrecision, Device, Exchange, OpenOptions
from zsm.engine.tiling import Tiling
from zsm.errors import ArgumentError, ArgumentTypeError, BackendError, FrameError
from zsm.runtime import SCALE, Backend, Cuts, FrameStream, Pixels, To, windows
from zsm.runtime.arguments import whole_number

AHEAD = 2
"""Outputs on their way from a GPU while further frames are read, so that the GPU never waits for the host."""


class Runtime:
    """Frames in, frames out at 4x the resolution and 2x the frame rate.

        with Runtime("bundle") as rt:
            video = rt(clip)                    # (N,H,W,3) -> (2N-1,4H,4W,3)
            for frame in rt.stream(frames):     # the same, frame by frame
                ...

    Frames are RGB arrays (H,W,3) of any size: uint8, uint16, or float32 in [0, 1]. Besides NumPy arrays, any arrays on
    the host are read that offer DLPack or `__array__`, such as torch's. With a GPU, arrays in its memory that offer
    DLPack or `__cuda_array_interface__` are read there, and their outputs are `DeviceFrame`s. Outputs have the inputs'
    dtype (float32 is not clipped) and belong to the caller.

    A Runtime belongs to one thread at a time; several may exist. Close it, or use `with`: a GPU's memory isn't released
    otherwise. Raises a `zsm.Error` subclass, whose message says how to fix it, for an invalid bundle, frame or device.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle,
        *,
        device: str = "cpu",
        backend: str = "auto",
        precision: ChosenPrecision = "bundle",
        window: int = 4,
        overlap: int = 1,
        threads: int | None = None,
        build: bool = False,
        tile: str | None = "auto",
        memory: str | int | None = None,
        cuda_stream: int | None = None,
        cuda_graphs: bool = False,
        exchange: Exchange | None = None,
    ) -> None:
        """Open a bundle: a folder, or the name of one in the box.

        `device`: `cpu`, `cuda:N`, or an Intel GPU or NPU (`gpu:N`, `npu`). `backend`: `onnxruntime`, `openvino`,
        `tensorrt`, or `auto`: on CUDA TensorRT if it is installed, else ONNX Runtime; on a CPU ONNX Runtime, unless
        `zsm bench --compare` found OpenVINO faster; `describe` tells which and why. `precision`: `bundle` for the
        bundle's own, or `bfloat16`, which is less exact and needs OpenVINO and a processor that computes in it. Never
        falls back to another device, backend or precision.
        `window`: input frames processed together; `overlap`: how many of them neighbouring windows share. `threads`:
        CPU threads, all cores by default. `build`: build missing TensorRT engines when the first frame of a size comes,
        which takes minutes; otherwise that is an error that names the command. `tile`: `auto` processes frames whole
        if they fit in free memory, else in the fewest tiles that do, and logs that; `WxH` gives the tiles' size; None
        makes no tiles. `memory`: a limit for `auto` in place of free memory, such as `4GiB`; on the CPU it holds for
        the whole process. `cuda_stream`: the handle of a CUDA stream to compute on, such as torch's
        `Stream.cuda_stream`; frames made and outputs used on that stream need no waiting.
        `cuda_graphs`: record each stage once per frame size, and launch it as a CUDA graph (TensorRT only). `exchange`:
        settles with other processes which build of a TensorRT engine all of them use.

        Raises ArgumentTypeError, ArgumentError, WindowError, TileError or SizeError for an invalid argument,
        BundleError for an invalid bundle, and BackendError, PluginError or OutOfMemoryError if the backend can't be
        opened on the device.
        """
        self._window, self._overlap = windows.check(window, overlap)
        options = OpenOptions(
            device=Device.parse(device),
            threads=None if threads is None else whole_number("threads", threads),
            precision=precision,
            build=build,
            cuda_stream=None if cuda_stream is None else whole_number("cuda_stream", cuda_stream),
            cuda_graphs=cuda_graphs,
            exchange=exchange,
        )
        if not isinstance(bundle, (str, Path, Bundle)):
            raise ArgumentTypeError(f"bundle is {bundle!r}; give a folder, or the name of a bundle in the box")
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle(bundle)
        self._device = options.device
        self._precision = options.precision
        this = weakref.proxy(self)  # or a dropped Runtime would keep itself, and its threads, for a while
        self._tiling = Tiling(
            self.bundle,
            self._device,
            lambda: this._open().free_memory(),
            window=self._window,
            overlap=self._overlap,
            tile=tile,
            memory=memory,
            backend=lambda: str(this._open().describe()["backend"]),
        )
        self._backend: Backend | None
        self._backend, self._reason = open_backend(self.bundle, backend, options)

    @property
    def scale(self) -> int:
        """Enlargement of height and width."""
        return SCALE

    @property
    def window(self) -> int:
        """Input frames processed together."""
        return self._window

    @property
    def overlap(self) -> int:
        """Input frames that neighbouring windows share."""
        return self._overlap

    @property
    def identity(self) -> str:
        """Identifies the network and its precision: the manifest has every graph's digest."""
        chosen = "" if self._precision == "bundle" else self._precision
        return self.bundle.manifest.to_json() + chosen

    @property
    def builds(self) -> dict[str, str]:
        """The checksums of the TensorRT engines loaded so far, by stage, frame size and GPU.

        Two builds of one engine may differ in pixels.
        """
        return dict(self._open().describe().get("builds", {}))

    @property
    def room(self) -> int:
        """The bytes of the host's memory that are free, or left of `memory`."""
        return self._tiling.room() if self._device.on_host else host.free_memory()

    def tile(self, width: int, height: int, itemsize: int, *, besides: int = 0) -> str | None:
        """The tiles, `WxH`, in which frames of a size are processed; None if they are processed whole.

        `itemsize`: the bytes of a number of theirs. `besides`: bytes of the host's memory that the caller will need, as
        for an encoder; they count when a size comes for the first time. Raises OutOfMemoryError if frames of this size
        fit in no tiles.
        """
        return self._tiling.text(width, height, itemsize, besides)

    @property
    def latency(self) -> int:
        """The most input frames that `stream` reads after an output's own before it yields the output.

        On a GPU it reads one more, unless the frames are `live`.
        """
        return windows.latency(self._window)

    def __call__(self, clip: Any, *, cuts: Cuts = None) -> Pixels:
        """Process a whole clip, an array (N,H,W,3) or a list of N frames, into an array (2N-1,4H,4W,3).

        `cuts` as for `stream`. Raises FrameError for an invalid clip or frame, WindowError or ArgumentTypeError for
        invalid cuts, BackendError or OutOfMemoryError if computing fails.
        """
        count = _length(clip)
        if isinstance(cuts, Iterator):
            cuts = list(cuts)
        outputs = self.stream(clip, cuts=cuts, to="host")
        if cuts is not None and not callable(cuts):
            windows.plan(count, self._window, self._overlap, cuts)  # raises for a cut beyond the clip
        first = next(outputs)
        result: Pixels = np.empty((2 * count - 1, *first.shape), first.dtype)
        result[0] = first
        for i, frame in enumerate(outputs, start=1):
            result[i] = frame
        return result

    @overload
    def stream(
        self,
        frames: Iterable[Any],
        *,
        cuts: Cuts = None,
        live: bool = False,
        to: Literal["host"],
        first: int = 0,
        every: int = 1,
    ) -> Iterator[Pixels]: ...
    @overload
    def stream(
        self,
        frames: Iterable[Any],
        *,
        cuts: Cuts = None,
        live: bool = False,
        to: Literal["device"],
        first: int = 0,
        every: int = 1,
    ) -> Iterator[DeviceFrame]: ...
    @overload
    def stream(
        self,
        frames: Iterable[Pixels],
        *,
        cuts: Cuts = None,
        live: bool = False,
        to: None = None,
        first: int = 0,
        every: int = 1,
    ) -> Iterator[Pixels]: ...
    @overload
    def stream(
        self,
        frames: Iterable[Any],
        *,
        cuts: Cuts = None,
        live: bool = False,
        to: To | None = None,
        first: int = 0,
        every: int = 1,
    ) -> Iterator[Pixels | DeviceFrame]: ...
    def stream(
        self,
        frames: Iterable[Any],
        *,
        cuts: Cuts = None,
        live: bool = False,
        to: To | None = None,
        first: int = 0,
        every: int = 1,
    ) -> Iterator[Any]:
        """Process frames (H,W,3) as they come; yield each output (4H,4W,3) as soon as it is final.

        N frames give 2N-1 outputs; memory doesn't grow with N. An iterator may yield one NumPy array again and again.
        `cuts`: the numbers of frames that begin a new scene, or a function of two neighbouring frames that returns
        whether the second one does (frames other than NumPy arrays need memory of their own then). Nothing is mixed
        across a cut: the missing frame there repeats the one before it. `live`: yield the outputs that are final before
        the next frame is read; otherwise a GPU is given more work first. `to`: `host` for NumPy arrays, `device` for
        `DeviceFrame`s in the GPU's memory; by default outputs are where the frames were. `first`, `every`: yield only
        the outputs numbered first, first + every, ...; the others aren't reconstructed (`every=2` gives the original
        frames, enlarged).

        Raises WindowError, ArgumentError or ArgumentTypeError for an invalid argument, FrameError for an invalid frame
        or one that differs from those before it, and BackendError or OutOfMemoryError if computing fails.
        """
        return self.open_stream(live=live, to=to, first=first, every=every).run(frames, cuts)

    def open_stream(self, *, live: bool = True, to: To | None = None, first: int = 0, every: int = 1) -> FrameStream:
        """Open a stream into which frames are pushed, for programs that can't hand over an iterator.

            stream = rt.open_stream()
            for frame in frames:
                outputs = stream.push(frame)  # those that became final: none, one or several
            outputs = stream.finish()         # the rest

        The outputs are those of `stream`, to the last bit. Cuts are told to `push`. `live`: each output is returned by
        the call that makes it final; False lets a GPU work on up to two outputs while the caller prepares the next
        frame. `to`, `first`, `every` as for `stream`.

        Raises WindowError, ArgumentError or ArgumentTypeError for an invalid argument.
        """
        if to == "device" and self._tiling.always:
            raise ArgumentError("tiles are joined on the host; leave out to='device', or tile")
        return FrameStream(
            self._open(),
            network=self.bundle.network,
            window=self._window,
            overlap=self._overlap,
            ahead=0 if live or self._device.on_host else AHEAD,
            to=to,
            first=first,
            every=every,
            tile_of=self._tile_of,
        )

    def _tile_of(self, width: int, height: int, itemsize: int) -> tuple[int, int] | None:
        """`_tiling`, as a method, so that a stream keeps its Runtime."""
        return self._tiling(width, height, itemsize)

    def describe(self) -> dict[str, Any]:
        """Report what runs where, in plain values; raises BackendError once the Runtime is closed."""
        manifest = self.bundle.manifest
        return {
            "bundle": str(self.bundle.path),
            "precision": manifest.precision if self._precision == "bundle" else self._precision,
            "int8": 0.0 if manifest.quantisation is None else manifest.quantisation.share,  # of the arithmetic
            "trained": manifest.trained,
            **self._open().describe(),
            "chosen": self._reason,
            "window": self._window,
            "overlap": self._overlap,
            "tile": self._tiling.chosen,
            "latency_frames": self.latency,
        }

    @contextmanager
    def timing(self) -> Iterator[dict[str, StageTime]]:
        """Measure the streams begun within the context: count each stage's calls, and add up their seconds."""
        inner = self._open()
        times: dict[str, StageTime] = {}
        self._backend = TimedBackend(inner, times)
        try:
            yield times
        finally:
            if self._backend is not None:
                self._backend = inner

    def close(self) -> None:
        """Release what the backend holds. The Runtime can't be used afterwards; its `DeviceFrame`s can.

        A `DeviceFrame` that is dropped later is freed at once, for which the GPU finishes its work first.
        Raises BackendError if work on the GPU failed.
        """
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    def _open(self) -> Backend:
        if self._backend is None:
            raise BackendError(CLOSED)
        return self._backend

    def __repr__(self) -> str:
        state = "" if self._backend is not None else ", closed"
        return f"<Runtime of {self.bundle.path} on {self._device}, window {self._window}{state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After a failure closing may fail too; the first failure is the one to report.
        with suppress(BackendError) if error is not None else nullcontext():
            self.close()


def _length(clip: Any) -> int:
    """The number of a clip's frames; raises FrameError unless it is an array (N,H,W,3), a list or a tuple."""
    shape = getattr(clip, "shape", None)
    if isinstance(clip, (list, tuple)) or (shape is not None and len(shape) == 4):
        if len(clip):
            return len(clip)
        raise FrameError("the clip has no frames")
    found = f"a {type(clip).__name__}" if shape is None else f"an array of shape {tuple(shape)}"
    raise FrameError(f"the clip is {found}; give an array (frames, height, width, 3), a list of frames, or use stream")
