"""Prepares clips for training, once: shrinks them, splits them at cuts, drops still stretches, maps them to memory.

The cache has one folder per clip and size: `hr.npy` (N,H,W,3) and `lr.npy` (V,N,H/4,W/4,3), V versions of the LR
frames, both uint8, and `starts.npy`, the frames at which a septuplet may begin. `footage.json`, written last, records
what the folder was made from; an outdated or unfinished folder is made again.
"""

import json
import shutil
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from zsm.errors import ArgumentError, DataError
from zsm.evaluation import bicubic
from zsm.evaluation.layouts import Clip
from zsm.runtime import SCALE
from zsm.runtime.video.cuts import CutDetector
from zsm.training import parallel
from zsm.training.delivery import Delivery

Frames = NDArray[np.uint8]

SEPTUPLET = 7
"""Consecutive frames of one training example: four inputs, and all seven as the truth."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How clips are prepared for training."""

    scales: tuple[float, ...] = (1.0, 0.5, 0.25)
    """Factors by which each clip is shrunk, as far as the shorter side is then within the limits.

    Shrinking removes codec artefacts, and gives several sizes of motion and detail.
    """
    least_side: int = 160
    """HR pixels."""
    greatest_side: int = 576
    """HR pixels."""
    still: float = 0.5
    """Septuplets that change less than this from frame to frame are dropped: mean absolute difference of luma, in 8-bit
    levels."""
    compressed: int = 0
    """Versions of each clip's LR frames beside the clean one, each through a random `Delivery`."""

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ArgumentError(f"data scales are {list(self.scales)}; give one or more above 0, up to 1")
        if not SCALE <= self.least_side <= self.greatest_side:
            raise ArgumentError(
                f"data.preparation's sides are {self.least_side} to {self.greatest_side};"
                f" give at least {SCALE}, the lesser first"
            )
        if self.compressed < 0:
            raise ArgumentError(f"data.preparation.compressed must be 0 or more, got {self.compressed}")

    def sizes(self, side: int) -> list[float]:
        """The scales within the limits for a clip whose shorter side this is, or the one that comes closest."""
        fitting = [s for s in self.scales if self.least_side <= int(side * s) <= self.greatest_side]
        return fitting or [min(self.scales, key=lambda s: abs(int(side * s) - self.greatest_side))]


@dataclass(frozen=True, kw_only=True)
class Footage:
    """A clip at one size, on disk: memory-mapped frames (LR in every version), and where septuplets may begin."""

    name: str
    hr: Frames
    lr: Frames
    starts: NDArray[np.int64]


def prepare(clips: Sequence[Clip], cache: Path, preparation: Preparation, workers: int = 0) -> list[Footage]:
    """Prepare every clip at every size, or find it in the cache; clips without a usable septuplet are left out.

    workers: processes that share the clips; 0 prepares them in this one.

    Raises DataError if nothing is left.
    """
    prepare_clip = partial(_prepare_clip, cache=cache, preparation=preparation)
    folders = [folder for made in parallel.each(prepare_clip, clips, workers) for folder in made]
    found = [footage for footage in map(_open, folders) if len(footage.starts)]
    if not found:
        names = ", ".join(clip.name for clip in clips) or "no clips"
        raise DataError(f"no seven consecutive moving frames in {names}; give other footage")
    return found


def _prepare_clip(clip: Clip, cache: Path, preparation: Preparation) -> list[Path]:
    """Return the clip's folders, made anew where the cache hasn't got them."""
    first = next(iter(clip.frames(frames=1)), None)
    if first is None:
        raise DataError(f"clip {clip.name} has no frames")
    scales = preparation.sizes(min(first.shape[:2]))
    origin: dict[str, object] = {"source": _signature(clip), "preparation": asdict(preparation)}
    folders = {scale: cache / f"{clip.name}@{scale:g}" for scale in scales}
    stale: dict[float, list[Frames]] = {
        scale: [] for scale, folder in folders.items() if not _made_from(folder, origin)
    }
    for frame in clip.frames() if stale else ():
        for scale, frames in stale.items():
            frames.append(_shrink(frame, scale))
    for scale, frames in stale.items():
        try:
            _write(folders[scale], frames, preparation, origin)
        except OSError as error:
            raise DataError(f"can't prepare {clip.name} in {folders[scale]}: {error}") from error
    return list(folders.values())


def _signature(clip: Clip) -> list[list[str | int]]:
    files = sorted(clip.source.iterdir()) if clip.source.is_dir() else [clip.source]
    return [[file.name, (stat := file.stat()).st_size, stat.st_mtime_ns] for file in files]


def _made_from(folder: Path, origin: dict[str, object]) -> bool:
    note = folder / "footage.json"
    return note.is_file() and json.loads(note.read_text()) == json.loads(json.dumps(origin))


def _open(folder: Path) -> Footage:
    hr, lr = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("hr", "lr"))
    return Footage(name=folder.name, hr=hr, lr=lr, starts=np.load(folder / "starts.npy"))


def _write(folder: Path, frames: list[Frames], preparation: Preparation, origin: dict[str, object]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    hr = np.stack(frames)
    np.save(folder / "hr.npy", hr)
    np.save(folder / "lr.npy", np.stack(list(_versions(hr, folder.name, preparation.compressed))))
    np.save(folder / "starts.npy", septuplet_starts(frames, preparation.still))
    (folder / "footage.json").write_text(json.dumps(origin))


def _versions(hr: Frames, name: str, compressed: int) -> Iterator[Frames]:
    """The clean LR clip, then compressed ones; the name seeds what is drawn."""
    clean = np.stack([bicubic.resize(frame, 1 / SCALE) for frame in hr])
    yield clean
    for number in range(compressed):
        rng = np.random.default_rng((zlib.crc32(name.encode()), number))
        yield Delivery.draw(rng)(hr, clean, rng)


def _shrink(frame: Frames, scale: float) -> Frames:
    """Average areas, and crop to a multiple of the enlargement."""
    height, width = (int(side * scale) // SCALE * SCALE for side in frame.shape[:2])
    if scale != 1:
        size = round(frame.shape[1] * scale), round(frame.shape[0] * scale)
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    return frame[:height, :width]


def septuplet_starts(frames: Sequence[Frames], still: float) -> NDArray[np.int64]:
    """The frames at which seven frames with motion and without a cut begin."""
    changes = _changes(frames)
    cuts = set(_cuts(frames))
    spans = range(len(frames) - SEPTUPLET + 1)
    moving = [
        start
        for start in spans
        if np.mean(changes[start : start + SEPTUPLET - 1]) >= still
        and cuts.isdisjoint(range(start + 1, start + SEPTUPLET))
    ]
    return np.array(moving, np.int64)


def _changes(frames: Sequence[Frames]) -> list[float]:
    """Mean absolute difference of luma from each frame to the next."""
    lumas = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) for frame in frames]
    return [float(np.abs(b - a).mean()) for a, b in pairwise(lumas)]


def _cuts(frames: Sequence[Frames]) -> list[int]:
    """The first frame of every shot but the first."""
    is_cut = CutDetector()
    return [number for number, (a, b) in enumerate(pairwise(frames), start=1) if is_cut(a, b)]
