"""The models in the box: whole, of a known licence and size, and each better at what it is for."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from zsm.engine import Bundle, Runtime
from zsm.engine.bundle.manifest import included
from zsm.evaluation import degradations, metrics

MODELS = Path(__file__).resolve().parents[2] / "models"
LARGEST = 8_000_000
"""Bytes."""


@pytest.mark.parametrize("name", ["compact", "compact-int8", "compact-video"])
def test_a_model_in_the_box(name: str) -> None:
    manifest = Bundle(included()[name]).manifest
    assert manifest.trained
    assert manifest.licence == "Apache-2.0"
    assert sum(path.stat().st_size for path in included()[name].iterdir()) <= LARGEST
    weights = MODELS / f"{name.removesuffix('-int8')}.safetensors"
    assert manifest.weights_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()


@pytest.mark.parametrize(("degradation", "better"), [("h264:28", "compact-video"), (None, "compact")])
def test_each_model_is_better_at_its_own_kind_of_footage(degradation: str | None, better: str, clips: Path) -> None:
    """In the mean over original frames of three scenes that neither was trained on."""
    scores = {}
    for name in ("compact", "compact-video"):
        with Runtime(name) as rt:
            scores[name] = np.mean(
                [score(rt, folder, degradation) for folder in sorted(clips.glob("demo/septuplets/*"))]
            )
    (other,) = scores.keys() - {better}
    assert scores[better] > scores[other] + 0.1


def score(rt: Runtime, folder: Path, degradation: str | None) -> float:
    """Y-PSNR of the original frames."""
    lr, hr = (
        np.stack([imread(path)[..., ::-1] for path in sorted(folder.glob(f"{kind}_*.png"))[::2]])
        for kind in ("LR", "HR")
    )
    if degradation is not None:
        lr = degradations.parse(degradation)(lr, np.random.default_rng(0))
    pairs = zip(rt(lr)[::2], hr, strict=True)
    return float(np.mean([metrics.psnr(metrics.luma(ours), metrics.luma(truth)) for ours, truth in pairs]))


def imread(path: Path) -> NDArray[np.uint8]:
    """BGR."""
    image = cv2.imread(str(path))
    assert image is not None
    return image.astype(np.uint8, copy=False)
