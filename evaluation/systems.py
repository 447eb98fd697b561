"""Systems to score: a bundle, another system's frames, the baseline."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zsm.errors import DataError
from zsm.evaluation.baseline import enlarge_and_average
from zsm.evaluation.layouts import Clip
from zsm.evaluation.scoring import System, Trial

if TYPE_CHECKING:
    # Scoring another system's frames needs no inference library.
    from zsm.engine import Runtime

BASELINE = "bicubic + averaging"


def baseline() -> System:
    """Return the baseline: bicubic enlargement and frame averaging."""
    return System(restore=lambda trial: enlarge_and_average(trial.lr))


def bundle(runtime: "Runtime") -> System:
    """Return an open bundle as a system. The caller closes the runtime."""
    return System(restore=lambda trial: runtime(trial.lr), facts=runtime.describe())


def predictions(root: Path) -> System:
    """Return another system, whose frames are the images in ROOT/CLIP/: of the whole clip, or the first of them.

    Its `check` raises DataError if there are too few or too many, or of another size than the truth. Both it and
    `restore` raise VideoError if frames can't be read.
    """

    def theirs(clip: Clip) -> Clip:
        return Clip(name=clip.name, source=root / clip.name)

    def check(clip: Clip, shape: tuple[int, ...]) -> None:
        folder, (scored, height, width, _) = theirs(clip).source, shape
        found, found_height, found_width, _ = theirs(clip).shape()
        if found < scored:
            raise DataError(
                f"{folder} holds {found} frames, but {scored} are scored: if fewer were restored on purpose, "
                "limit the frames of each clip, or score whole windows only"
            )
        if found > scored and found > (available := clip.shape(found)[0]):
            raise DataError(f"{folder} holds {found} frames, but the clip only {available}: remove those beyond")
        if (found_height, found_width) != (height, width):
            raise DataError(
                f"{folder} holds frames of {found_width}x{found_height}: expected {width}x{height}, "
                "the clip's size cropped to a multiple of 4"
            )

    def restore(trial: Trial) -> NDArray[np.uint8]:
        restored = np.empty_like(trial.truth)  # filled frame by frame: `read` would hold every frame twice
        for place, frame in zip(restored, theirs(trial.clip).frames(frames=len(restored)), strict=True):
            place[:] = frame
        return restored

    return System(
        restore=restore,
        facts={"predictions": str(root)},
        check=check,
    )
