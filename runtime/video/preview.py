"""Stills and a time estimate before a long run."""

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from zsm import files
from zsm.errors import ArgumentError, StoppedError, VideoError
from zsm.runtime.video import images, job
from zsm.runtime.video.colour import Codes
from zsm.runtime.video.cuts import CutDetector
from zsm.runtime.video.options import Options, Restorer
from zsm.runtime.video.source import Source, SourceFrame

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Stills, and the estimated time of the run."""

    stills: list[Path]
    seconds: float | None
    """Estimated time of the run without encoding; None if the source doesn't announce its length."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values."""
        return asdict(self) | {"stills": [str(path) for path in self.stills]}


def preview(
    source: Source,
    target: Path,
    restorer: Restorer,
    options: Options,
    count: int,
    *,
    stop: threading.Event | None = None,
) -> Preview:
    """Write `count` stills, spread over the part that would be restored, to the folder `<target>.preview`.

    Each shows the enlarged input on the left and a restored frame on the right: where frames are interpolated, an
    interpolated one beside the original before it. Makes all checks that the run would make first. Raises
    ArgumentError or VideoError if one fails, or if the source has no frame there, and StoppedError once `stop` is set.
    """
    if count < 1:
        raise ArgumentError(f"a preview must have at least 1 still, got {count}")
    job.check(source, target, restorer, options)
    stop = stop or threading.Event()
    folder = files.beside(target, "", ".preview")
    stills, outputs, seconds = [], 0, 0.0
    given = options.given_cuts()
    for number, (place, frames) in enumerate(_clips(source, restorer.window, options, count, stop)):
        cuts = CutDetector() if given is None else [cut - place for cut in given if 0 < cut - place < len(frames)]
        begin = time.perf_counter()
        restored = list(_until(stop, restorer.stream(frames, cuts=cuts, every=options.every)))
        seconds += time.perf_counter() - begin
        outputs += len(restored)
        output = _middle(len(restored), options.every)
        folder.mkdir(parents=True, exist_ok=True)
        stills.append(folder / f"{number:03d}.png")
        images.write(stills[-1], _side_by_side(frames[output * options.every // 2], restored[output]))
    if not stills:
        raise VideoError(f"{source.info.name} has no frame to preview in the chosen part")
    total = options.frames_expected(source.info)
    return Preview(stills=stills, seconds=total * seconds / outputs if total else None)


def _middle(outputs: int, every: int) -> int:
    """The output in the middle, an interpolated one if there are any."""
    return (outputs // 2) | 1 if every == 1 and outputs > 1 else outputs // 2


def _clips(
    source: Source, length: int, options: Options, count: int, stop: threading.Event
) -> Iterator[tuple[int, list[Codes]]]:
    """Yield `count` clips of `length` frames, each with its first frame's number, as far apart as the source allows.

    The source is decoded from its beginning, because only that is sure to give the right frames: see `scan.py`.
    """
    spacing = max(length, (options.excerpt.frames_expected(source.info) or 0) // count)
    place = -1

    def counted() -> Iterator[SourceFrame]:
        nonlocal place
        for frame in _until(stop, source.frames()):
            place += 1
            yield frame

    frames = options.excerpt.span(source).select(counted())
    for _ in range(count):
        clip = [(place, frame.pixels()) for frame in islice(frames, length)]
        if not clip:
            return
        yield clip[0][0], [pixels for _, pixels in clip]
        for _ in islice(frames, spacing - length):
            pass


def _until(stop: threading.Event, items: Iterable[Item]) -> Iterator[Item]:
    """Pass items on until a stop is asked for; then raises StoppedError."""
    for item in items:
        if stop.is_set():
            raise StoppedError("the preview was stopped")
        yield item


def _side_by_side(given: Codes, restored: Codes) -> Codes:
    height, width = restored.shape[:2]
    enlarged = cv2.resize(given, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.hstack([enlarged, restored])
