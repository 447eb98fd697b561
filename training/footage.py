"""Prepares clips for training, once: shrinks them, splits them at cuts, drops still stretches, maps them to memory.

The cache has one folder per clip and size: `hr.npy` (N,H,W,3), `lr-0.npy` (N,H/4,W/4,3) and further versions of the LR
frames, all uint8, and `starts-S.npy`, the frames at which a septuplet may begin if `still` is S. `footage.json` records
what the folder was made from; an outdated folder is replaced. What a run lacks is added.
"""

import json
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from zsm import files
from zsm.errors import ArgumentError, DataError, OutputError
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
            raise ArgumentError(f"data.preparation.scales are {list(self.scales)}; give one or more above 0, up to 1")
        if not SCALE <= self.least_side <= self.greatest_side:
            raise ArgumentError(
                f"data.preparation's sides are {self.least_side} to {self.greatest_side};"
                f" give at least {SCALE}, the lesser first"
            )
        if self.compressed < 0:
            raise ArgumentError(f"data.preparation.compressed must be 0 or more, got {self.compressed}")

    def fitting_scales(self, side: int) -> list[float]:
        """The scales within the limits for a clip whose shorter side this is, or the one that comes closest."""
        fitting = [s for s in self.scales if self.least_side <= int(side * s) <= self.greatest_side]
        return fitting or [min(self.scales, key=lambda s: abs(int(side * s) - self.greatest_side))]


@dataclass(frozen=True, kw_only=True)
class Footage:
    """A clip at one size, on disk, and where septuplets may begin in it.

    Frames are mapped to memory when they are asked for, and not kept open: a process may open only so many files.
    """

    folder: Path
    versions: int
    """Of the LR frames."""
    starts: NDArray[np.int64]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def hr(self) -> Frames:
        """All HR frames (N,H,W,3)."""
        return _mapped(self.folder / "hr.npy")

    def lr(self, version: int = 0) -> Frames:
        """All LR frames (N,H/4,W/4,3) of a version; 0 is the clean one."""
        return _mapped(_version(self.folder, version))


def _mapped(file: Path) -> Frames:
    frames: Frames = np.load(file, mmap_mode="r")
    return frames


def _version(folder: Path, number: int) -> Path:
    return folder / f"lr-{number}.npy"


def prepare(clips: Sequence[Clip], cache: Path, preparation: Preparation, workers: int = 0) -> list[Footage]:
    """Prepare every clip at every size, or find it in the cache; clips without a usable septuplet are left out.

    workers: processes that share the clips; 0 prepares them in this one.

    Raises DataError if a clip can't be read or nothing is left, and OutputError if the cache can't be written.
    """
    prepare_clip = partial(_prepare_clip, cache=cache, preparation=preparation)
    folders = [folder for made in parallel.each(prepare_clip, clips, workers) for folder in made]
    versions = 1 + preparation.compressed
    every = [Footage(folder=each, versions=versions, starts=np.load(_starts(each, preparation))) for each in folders]
    found = [footage for footage in every if len(footage.starts)]
    if not found:
        names = ", ".join(clip.name for clip in clips) or "no clips"
        raise DataError(f"no seven consecutive moving frames in {names}; give other footage")
    return found


def _prepare_clip(clip: Clip, cache: Path, preparation: Preparation) -> list[Path]:
    """Return the clip's folders, after making what the cache lacks."""
    first = next(iter(clip.frames(frames=1)), None)
    if first is None:
        raise DataError(f"clip {clip.name} has no frames")
    scales = preparation.fitting_scales(min(first.shape[:2]))
    origin: dict[str, object] = {"source": _signature(clip)}
    folders = {scale: cache / f"{clip.name}@{scale:g}" for scale in scales}
    stale = {scale: folder for scale, folder in folders.items() if not _made_from(folder, origin)}
    if stale:
        _add_frames(stale, clip, origin)
    for folder in folders.values():
        _add_starts(folder, preparation)
        _add_versions(folder, preparation.compressed)
    return list(folders.values())


def _signature(clip: Clip) -> list[list[str | int]]:
    try:
        sources = sorted(clip.source.iterdir()) if clip.source.is_dir() else [clip.source]
        return [[source.name, (stat := source.stat()).st_size, stat.st_mtime_ns] for source in sources]
    except OSError as error:
        raise DataError(f"clip {clip.name} can't be read: {error}; remove the clip, or mend it") from error


def _made_from(folder: Path, origin: dict[str, object]) -> bool:
    try:
        found: object = json.loads((folder / "footage.json").read_text())
    except (OSError, ValueError):
        return False
    return found == json.loads(json.dumps(origin))


def _add_frames(folders: dict[float, Path], clip: Clip, origin: dict[str, object]) -> None:
    """Make the folders, by scale. The clip is read once, and held at each scale until it is written."""
    shrunk: dict[float, list[Frames]] = {scale: [] for scale in folders}
    for frame in clip.frames():
        for scale, frames in shrunk.items():
            frames.append(_shrink(frame, scale))
    for scale, folder in folders.items():
        _write(folder, shrunk[scale], origin)


def _write(folder: Path, frames: list[Frames], origin: dict[str, object]) -> None:
    with files.staging(folder) as temporary:
        _save_frames(temporary / "hr.npy", frames)
        (temporary / "footage.json").write_text(json.dumps(origin))
        if not _made_from(folder, origin):  # another run may have been quicker
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)


def _save_frames(path: Path, frames: list[Frames]) -> None:
    """Write what `np.save` would write of an array of the frames, without making one. Raises OSError.

    Not in a memory map: on a full disk, that ends the process.
    """
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(frames), *frames[0].shape)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for frame in frames:
            file.write(frame.tobytes())


def _starts(folder: Path, preparation: Preparation) -> Path:
    return folder / f"starts-{preparation.still:g}.npy"


def _add_starts(folder: Path, preparation: Preparation) -> None:
    path = _starts(folder, preparation)
    if not path.is_file():
        _save(path, septuplet_starts(list(_mapped(folder / "hr.npy")), preparation.still))


def _save(path: Path, values: NDArray[Any]) -> None:
    """Write an array atomically; raises OutputError."""
    try:
        with files.replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, values)
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error}") from error


def _add_versions(folder: Path, compressed: int) -> None:
    """Make the LR versions that aren't there: the clean one, and `compressed` more. The folder's name seeds them."""
    for number in range(1 + compressed):
        path = _version(folder, number)
        if path.is_file():
            continue
        hr = _mapped(folder / "hr.npy")
        if number == 0:
            frames = np.stack([bicubic.resize(frame, 1 / SCALE) for frame in hr])
        else:
            rng = np.random.default_rng((zlib.crc32(folder.name.encode()), number - 1))
            frames = Delivery.draw(rng)(hr, _mapped(_version(folder, 0)), rng)
        _save(path, frames)


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
    lumas = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) for frame in frames)
    return [float(np.abs(b - a).mean()) for a, b in pairwise(lumas)]


def _cuts(frames: Sequence[Frames]) -> list[int]:
    """The first frame of every shot but the first."""
    is_cut = CutDetector()
    return [number for number, (a, b) in enumerate(pairwise(frames), start=1) if is_cut(a, b)]
