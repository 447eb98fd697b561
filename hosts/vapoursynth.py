"""A VapourSynth filter: 4x the resolution, 2x the frame rate, any frame in any order.

from zsm.hosts.vapoursynth import restore

clip = restore(clip)
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from threading import Lock
from typing import Any

import numpy as np
import vapoursynth as vs

from zsm.engine import Runtime
from zsm.engine.devices import ChosenPrecision
from zsm.errors import Error, FrameError
from zsm.runtime import Pixels
from zsm.runtime.stream import FrameStream
from zsm.runtime.windows import restart

DTYPES = {vs.RGB24: np.uint8, vs.RGB48: np.uint16, vs.RGBS: np.float32, vs.RGBH: np.float32}
"""Supported formats, and how their samples are processed."""

SCAN = 50
"""Frames read in a row where the beginning of a scene is looked for, since most sources are slow to read backwards."""


def restore(
    clip: vs.VideoNode,
    bundle: str = "compact",
    *,
    device: str = "cpu",
    backend: str = "auto",
    precision: ChosenPrecision = "bundle",
    window: int = 4,
    overlap: int = 1,
    sc: bool = True,
    tile: str | None = "auto",
    memory: str | int | None = None,
    threads: int | None = None,
    build: bool = False,
) -> vs.VideoNode:
    """Restore a clip of RGB24, RGB48, RGBH or RGBS: 4x the width and height, 2x the frames and frame rate.

    Output 2i is frame i enlarged, output 2i+1 the missing frame after it; the last output repeats the one before it.
    `sc`: a scene ends with each frame whose property `_SceneChangeNext` is set, as scene detectors do; nothing is mixed
    across such a cut, and the missing frame there repeats the one before it. If the first frame lacks the property, no
    scenes were detected, and there are no cuts; later frames must lack it too. The other arguments are those of
    `zsm.Runtime`. Properties are copied, and durations halved.

    Frames equal those of `zsm.Runtime.stream` in whatever order they are requested. In order is fastest: after a seek
    the frames of one or two windows before the requested one are processed too, and `sc` reads the scene from its
    beginning.

    Raises vs.Error, also when frames are requested: interlaced ones are refused.
    """
    if not isinstance(clip, vs.VideoNode):
        raise vs.Error(f"zsm: clip is {clip!r}; give a video node")
    if clip.format is None or not clip.width:
        raise vs.Error("zsm: the clip's format or size varies; make it constant with resize")
    if clip.format.id not in DTYPES:
        raise vs.Error(f"zsm: the clip is {clip.format.name}; convert it to RGB24, RGB48, RGBH or RGBS with resize")
    with _vs_errors():
        runtime = Runtime(
            bundle,
            device=device,
            backend=backend,
            precision=precision,
            window=window,
            overlap=overlap,
            tile=tile,
            memory=memory,
            threads=threads,
            build=build,
        )
    outputs = _Outputs(clip, runtime, sc=sc)
    scale, last = runtime.scale, 2 * clip.num_frames - 2
    blank = clip.std.BlankClip(
        width=scale * clip.width, height=scale * clip.height, length=2 * clip.num_frames, keep=True
    )
    if clip.fps:
        blank = blank.std.AssumeFPS(fpsnum=2 * clip.fps.numerator, fpsden=clip.fps.denominator)

    def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        with _vs_errors():
            pixels, properties = outputs[min(n, last)]
        frame = f.copy()
        for plane in range(3):
            np.copyto(np.asarray(frame[plane]), pixels[..., plane], casting="same_kind")
        frame.props.clear()
        frame.props.update(_between(properties) if n % 2 else _at(properties))
        return frame

    return blank.std.ModifyFrame(clips=blank, selector=fill)


@contextmanager
def _vs_errors() -> Iterator[None]:
    try:
        yield
    except Error as error:
        raise vs.Error(f"zsm: {error}") from None  # VapourSynth shows the whole chain


def _at(properties: dict[str, Any]) -> dict[str, Any]:
    """The properties of an original frame, which no longer ends a scene, as the missing frame follows it."""
    changed = _half_duration(properties)
    if "_SceneChangeNext" in properties:
        changed["_SceneChangeNext"] = 0
    return changed


def _between(properties: dict[str, Any]) -> dict[str, Any]:
    """The properties of the missing frame after an original one."""
    changed = _half_duration(properties)
    if "_SceneChangePrev" in properties:
        changed["_SceneChangePrev"] = 0
    if "_AbsoluteTime" in properties and "_DurationNum" in changed:
        changed["_AbsoluteTime"] += changed["_DurationNum"] / changed["_DurationDen"]
    return changed


def _half_duration(properties: dict[str, Any]) -> dict[str, Any]:
    changed = dict(properties)
    if properties.get("_DurationDen"):
        half = Fraction(properties["_DurationNum"], 2 * properties["_DurationDen"])
        changed |= {"_DurationNum": half.numerator, "_DurationDen": half.denominator}
    return changed


class _Outputs:
    """The restored frames of a clip by number, each with the properties of the frame at or before it.

    One stream runs along the clip. A request for a frame that it doesn't reach soon begins another one.
    """

    def __init__(self, clip: vs.VideoNode, runtime: Runtime, *, sc: bool) -> None:
        self._clip = clip
        self._runtime = runtime
        self._sc = sc
        self._lock = Lock()  # VapourSynth requests frames from several threads
        self._stream: FrameStream | None = None
        self._read = 0
        self._next = 0
        self._made: dict[int, Pixels] = {}
        self._properties: dict[int, dict[str, Any]] = {}
        self._scene_changes: dict[int, Any] = {}
        # At exit, other threads may still be computing.
        weakref.finalize(self, runtime.close).atexit = False

    def __getitem__(self, output: int) -> tuple[Pixels, dict[str, Any]]:
        with self._lock:
            if output not in self._made:
                self._make(output)
            self._forget(before=output - vs.core.num_threads)
            return self._made[output], self._properties[output // 2]

    def _make(self, output: int) -> None:
        stream, self._stream = self._stream, None  # for good, if anything fails
        if stream is None or not self._next <= output < self._next + 4 * self._runtime.window:
            stream = self._enter(output)
        while output not in self._made:
            outputs = self._push(stream) if self._read < self._clip.num_frames else stream.finish()
            self._made.update(enumerate(outputs, self._next))
            self._next += len(outputs)
        self._stream = stream

    def _enter(self, output: int) -> FrameStream:
        """Begin a stream that makes `output` first."""
        scene = self._scene(output // 2)
        self._read = restart(output, [scene], self._runtime.window, self._runtime.overlap)
        self._next = output
        self._made.clear()
        self._properties.clear()
        return self._runtime.open_stream(live=False, first=output - 2 * self._read)

    def _push(self, stream: FrameStream) -> list[Pixels]:
        number = self._read
        with self._clip.get_frame(number) as frame:
            self._properties[number] = properties = dict(frame.props)
            self._scene_changes[number] = properties.get("_SceneChangeNext")
            if properties.get("_FieldBased"):
                raise FrameError(
                    f"frame {number} is interlaced; deinterlace the clip, for example with bwdif, or, if it is "
                    "progressive after all, say so with std.SetFieldBased(clip, 0)"
                )
            if self._sc and self._scene_changes[number] is not None and not self._has_scenes():
                raise FrameError(
                    f"frame {number} has _SceneChangeNext, but frame 0 doesn't; detect scenes in the whole clip, or "
                    "pass sc=False"
                )
            pixels = np.stack([np.asarray(frame[plane]) for plane in range(3)], axis=-1)
        self._read += 1
        return stream.push(pixels.astype(DTYPES[self._clip.format.id], copy=False), cut=self._is_cut(number))

    def _is_cut(self, frame: int) -> bool:
        """Whether a frame other than the clip's first one begins a scene."""
        return frame > 0 and self._has_scenes() and bool(self._scene_change(frame - 1))

    def _has_scenes(self) -> bool:
        return self._sc and self._scene_change(0) is not None

    def _scene_change(self, frame: int) -> Any:
        """A frame's `_SceneChangeNext`, or None."""
        if frame not in self._scene_changes:
            with self._clip.get_frame(frame) as read:
                self._scene_changes[frame] = read.props.get("_SceneChangeNext")
        return self._scene_changes[frame]

    def _scene(self, frame: int) -> int:
        """The frame that begins the scene of `frame`."""
        if frame > 0 and self._has_scenes():
            for end in range(frame + 1, 0, -SCAN):
                begins = [number for number in range(max(0, end - SCAN), end) if self._is_cut(number)]
                if begins:
                    return begins[-1]
        return 0

    def _forget(self, before: int) -> None:
        """Drop old outputs; requests may be as far behind one another as VapourSynth has threads."""
        for kept, oldest in ((self._made, before), (self._properties, before // 2)):
            for number in [number for number in kept if number < oldest]:
                del kept[number]
