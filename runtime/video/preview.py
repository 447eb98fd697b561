"""A look at the result before the long run."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from zsm.errors import VideoError
from zsm.runtime.video import images
from zsm.runtime.video.colour import Codes
from zsm.runtime.video.job import Options, Restore, expected_frames
from zsm.runtime.video.source import Source


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Stills, and an estimate for everything."""

    stills: list[Path]
    seconds: float | None
    """What restoring the whole source would take, without encoding."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"stills": [str(path) for path in self.stills]}


def preview(source: Source, target: Path, restore: Restore, options: Options, count: int) -> Preview:
    """Write `count` stills, spread over the source, to the folder `<target>.preview`.

    Each has the enlarged input on the left and a restored frame on the right: one between two originals,
    beside the original before it. VideoError if the source is too short.
    """
    if count < 1:
        raise VideoError(f"a preview needs at least 1 still, not {count}")
    folder = target.with_name(f"{target.name}.preview")
    folder.mkdir(parents=True, exist_ok=True)
    stills, outputs, seconds = [], 0, 0.0
    for number, frames in enumerate(_excerpts(source, options.window, count)):
        begin = time.perf_counter()
        restored = list(restore(frames, cuts=None))
        seconds += time.perf_counter() - begin
        outputs += len(restored)
        middle = (len(restored) // 2) | 1 if len(restored) > 1 else 0
        stills.append(folder / f"{number:03d}.png")
        images.write(stills[-1], _side_by_side(frames[middle // 2], restored[middle]))
    if not stills:
        raise VideoError(f"{source.info.name} has no frame to preview")
    total = expected_frames(source, options)
    return Preview(stills=stills, seconds=total * seconds / outputs if total else None)


def _excerpts(source: Source, length: int, count: int) -> Iterator[list[Codes]]:
    """`count` runs of `length` neighbouring frames, as far apart as the source allows."""
    spacing = max(length, (source.info.frames or 0) // count)
    pictures = source.pictures()
    for _ in range(count):
        frames = [picture.pixels() for picture in islice(pictures, length)]
        if not frames:
            return
        yield frames
        for _ in islice(pictures, spacing - length):
            pass


def _side_by_side(given: Codes, restored: Codes) -> Codes:
    height, width = restored.shape[:2]
    enlarged = cv2.resize(given, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.hstack([enlarged, restored])
