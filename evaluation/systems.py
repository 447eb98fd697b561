"""The systems that are scored: a bundle, another system's frames, the baseline."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zsm.errors import DataError
from zsm.evaluation.baseline import enlarge_and_average
from zsm.evaluation.scoring import System, Trial
from zsm.runtime.video import images, read_frames

if TYPE_CHECKING:
    # Another system's frames are scored without an inference library.
    from zsm.engine import Runtime

BASELINE = "bicubic + averaging"


def baseline() -> System:
    """Bicubic enlargement and frame averaging."""
    return System(restore=lambda trial: enlarge_and_average(trial.lr))


def bundle(runtime: "Runtime") -> System:
    """A bundle that is open."""
    return System(restore=lambda trial: runtime(trial.lr), facts=runtime.describe())


def predictions(root: Path) -> System:
    """Another system's frames: the images in ROOT/<clip's name>/."""

    def read(trial: Trial) -> NDArray[np.uint8]:
        folder, expected = root / trial.clip.name, len(trial.truth)
        given = len(images.find(folder))
        # A system that also restored the last frame of an even number gave one more than is scored.
        if given not in (expected, expected + 1):
            raise DataError(
                f"{folder} holds {given} frames, but {expected} are scored: limit the frames taken of "
                "each clip, or take whole windows only, if that is what was restored"
            )
        return np.stack(list(read_frames(folder, frames=expected)))

    return System(restore=read, facts={"predictions": str(root)})
