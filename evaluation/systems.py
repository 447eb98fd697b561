"""Systems to score: a bundle, another system's frames, the baseline."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zsm.errors import DataError
from zsm.evaluation.baseline import enlarge_and_average
from zsm.evaluation.scoring import System, Trial
from zsm.runtime.video import images, read_frames

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
    """Return another system, whose frames are the images in ROOT/CLIP/.

    Its `restore` raises DataError if there are too few or too many, and VideoError if they can't be read.
    """

    def read(trial: Trial) -> NDArray[np.uint8]:
        folder, expected = root / trial.clip.name, len(trial.truth)
        found = len(images.find(folder))
        # Of an even number of frames the last isn't scored, but the other system may have restored it.
        if found not in (expected, expected + 1):
            advice = (
                "remove those beyond"
                if found > expected
                else "if fewer were restored on purpose, limit the frames of each clip, or score whole windows only"
            )
            raise DataError(f"{folder} holds {found} frames, but {expected} are scored: {advice}")
        return np.stack(list(read_frames(folder, frames=expected)))

    return System(restore=read, facts={"predictions": str(root)})
