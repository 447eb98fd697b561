"""`Runtime`: a bundle that is ready to process frames."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from zsm.engine.backends import open_backend
from zsm.engine.backends.timed import StageTime, TimedBackend
from zsm.engine.bundle.manifest import Bundle
from zsm.engine.devices import CLOSED, Device, Place
from zsm.engine.tiling import chooser
from zsm.errors import BackendError, FrameError
from zsm.runtime import SCALE, Backend, Cuts, Pixels, To, tiles, windows
from zsm.runtime.stream import stream

AHEAD = 2
"""Outputs that may be on their way from a GPU while further frames are read: the GPU never waits for the host."""


class Runtime:
    """Frames in, frames out at 4x the resolution and 2x the frame rate.

        with Runtime("bundle") as rt:
            video = rt(clip)                    # (N,H,W,3) -> (2N-1,4H,4W,3)
            for frame in rt.stream(frames):     # the same, frame by frame
                ...

    Frames are RGB: uint8, uint16, or float32 in [0, 1]; outputs have the inputs' type (float32 is not
    clipped) and belong to the caller. With a GPU, frames may be in its memory already: whatever offers DLPack or
    `__cuda_array_interface__` is read where it is, and such outputs are `DeviceFrame`s. Any size from 1x1 up. A Runtime
    belongs to one thread at a time; several may exist. Close it, or use `with`: what it holds of a GPU's memory isn't
    given back otherwise. What bundles, frames and machines can be wrong about raises a `zsm.Error` with what to do.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle,
        *,
        device: str = "cpu",
        backend: str = "auto",
        window: int = 4,
        overlap: int = 1,
        threads: int | None = None,
        build: bool = False,
        tile: str | None = None,
        cuda_stream: int | None = None,
    ) -> None:
        """Open a bundle.

        `device`: `cpu` or `cuda:N`. `backend`: `onnxruntime`, `tensorrt`, or `auto`: TensorRT for a GPU if it
        is installed, else ONNX Runtime; `describe` tells the choice. Never is another device, backend or precision
        taken instead. `window`: input frames processed together; `overlap`: how many of them neighbouring windows
        share. `threads`: CPU threads, all cores by default. `build`: build TensorRT engines that are missing when
        the first frame of a size comes, which takes minutes; otherwise that is an error that names the command.
        `tile`: `WxH`, to process larger frames in tiles, or `auto`, for the fewest that free memory holds.
        `cuda_stream`: the handle of a CUDA stream of the caller's to compute on, as in torch's `Stream.cuda_stream`;
        frames made and outputs used on that stream need no waiting.

        Raises BundleError, BackendError, WindowError, TileError or SizeError.
        """
        windows.check(window, overlap)
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle(bundle)
        self._window = window
        self._overlap = overlap
        self._tile = tile
        self._tile_of = chooser(tile, self.bundle, device, window) if tile else None
        where = Place(device=Device.parse(device), threads=threads, build=build, cuda_stream=cuda_stream)
        self._ahead = AHEAD if where.device.kind == "cuda" else 0
        self._backend: Backend | None
        self._backend, self._reason = open_backend(self.bundle, backend, where)

    @property
    def scale(self) -> int:
        """Enlargement of height and width."""
        return SCALE

    @property
    def latency(self) -> int:
        """How many further input frames `stream` reads, at most, before it yields an output.

        With a GPU it reads one more, unless it is told that the frames come live.
        """
        return windows.latency(self._window)

    def __call__(self, clip: Pixels, *, cuts: Cuts = None) -> Pixels:
        """Process a whole clip (N,H,W,3) into (2N-1,4H,4W,3); raises FrameError for another shape or type."""
        if not isinstance(clip, np.ndarray) or clip.ndim != 4 or not len(clip):
            found = f"of shape {clip.shape}" if isinstance(clip, np.ndarray) else f"a {type(clip).__name__}"
            raise FrameError(f"the clip is {found}; give a NumPy array (frames, height, width, 3)")
        if isinstance(cuts, Iterator):
            cuts = list(cuts)
        outputs = self.stream(clip, cuts=cuts)
        if cuts is not None and not callable(cuts):
            windows.plan(len(clip), self._window, self._overlap, cuts)  # raises for a cut beyond the clip
        first = next(outputs)
        result = np.empty((2 * len(clip) - 1, *first.shape), first.dtype)
        result[0] = first
        for i, frame in enumerate(outputs, start=1):
            result[i] = frame
        return result

    def stream(
        self, frames: Iterable[Any], *, cuts: Cuts = None, live: bool = False, to: To | None = None
    ) -> Iterator[Any]:
        """Process frames (H,W,3) as they come; yield each output (4H,4W,3) as soon as it is final.

        N frames give 2N-1; memory doesn't grow with N. `cuts` are the numbers of frames that begin a new
        scene, or a function of two neighbouring frames that tells whether the second one does (frames on a GPU
        need memory of their own then). Nothing is mixed across a cut: the missing frame there repeats the one
        before it. `live`: wait for the outputs that are final before the next frame is read, which it may take long
        to come; otherwise a GPU is given more work first. `to`: `host`, outputs as NumPy arrays, or `device`, as
        `DeviceFrame`s in the GPU's memory; by default they are where the frames were.

        Raises FrameError for a frame of another shape or type, or unlike the frames before it.
        """
        if to not in (None, "host", "device"):
            raise FrameError(f"outputs can't go to {to!r}; choose host or device")
        if self._tile_of is None:
            return self._stream(frames, cuts, live=live, to=to)
        if to == "device":
            raise FrameError("tiles are joined on the host; leave out to='device', or tile")
        return tiles.stream(partial(self._stream, live=live), frames, self._tile_of, cuts)

    def _stream(self, frames: Iterable[Any], cuts: Cuts, *, live: bool = False, to: To | None = None) -> Iterator[Any]:
        return stream(
            self._open(),
            frames,
            directions=self.bundle.network.directions,
            window=self._window,
            overlap=self._overlap,
            cuts=cuts,
            ahead=0 if live else self._ahead,
            to=to,
        )

    def describe(self) -> dict[str, Any]:
        """What runs where, in plain values."""
        manifest = self.bundle.manifest
        return {
            "bundle": str(self.bundle.path),
            "precision": manifest.precision,
            "trained": manifest.trained,
            **self._open().describe(),
            "chosen": self._reason,
            "window": self._window,
            "overlap": self._overlap,
            "tile": self._tile,
            "latency_frames": self.latency,
        }

    @contextmanager
    def timing(self) -> Iterator[dict[str, StageTime]]:
        """Count each stage's calls, and add up the seconds they take, while the context lasts."""
        inner = self._open()
        times: dict[str, StageTime] = {}
        self._backend = TimedBackend(inner, times)
        try:
            yield times
        finally:
            if self._backend is not None:
                self._backend = inner

    def close(self) -> None:
        """Give back what the backend holds. The Runtime can't be used afterwards; its frames on a GPU can."""
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    def _open(self) -> Backend:
        if self._backend is None:
            raise BackendError(CLOSED)
        return self._backend

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After a failure closing may fail too; the first one is told.
        with suppress(BackendError) if error is not None else nullcontext():
            self.close()
