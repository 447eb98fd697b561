"""Scores of the network on held-out septuplets, and its gain over the baseline."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from zsm.evaluation import metrics
from zsm.evaluation.baseline import enlarge_and_average
from zsm.evaluation.degradations import Degradation
from zsm.export.model import Network
from zsm.runtime import GRID, SCALE
from zsm.training.data import Septuplets, to_tensor

Frames = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A held-out septuplet, RGB uint8."""

    name: str
    lr: Frames
    """The input, (4,h,w,3)."""
    hr: Frames
    """The truth, (7,4h,4w,3)."""
    baseline: Frames
    """Bicubic enlargement and averaging of the input, (7,4h,4w,3)."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """PSNR on luma in dB, averaged over a septuplet's original and interpolated frames; gains are over the baseline."""

    name: str
    original: float
    interpolated: float
    original_gain: float
    interpolated_gain: float
    restored: Frames
    """The network's output, (7,4h,4w,3) uint8."""

    def figures(self) -> dict[str, str | float]:
        """Everything but the frames, for the weights' metadata."""
        return {name: value for name, value in vars(self).items() if name != "restored"}


def choose(name: str, septuplets: Septuplets, count: int, degradation: Degradation | None) -> list[HeldOut]:
    """Choose `count` septuplets spread evenly over a clip, or all if it has fewer."""
    count = min(count, len(septuplets))
    places = [(2 * number + 1) * len(septuplets) // (2 * count) for number in range(count)]
    held: list[HeldOut] = []
    for number in places:
        hr, _, lr = septuplets[number]
        height, width = (side // GRID * GRID for side in lr.shape[1:3])
        lr = np.array(lr[:, :height, :width])
        if degradation is not None:
            lr = degradation(lr, np.random.default_rng(0))
        hr = np.array(hr[:, : SCALE * height, : SCALE * width])
        title = name if count == 1 else f"{name} {len(held) + 1}"
        held.append(HeldOut(name=title, lr=lr, hr=hr, baseline=enlarge_and_average(lr)))
    return held


@torch.no_grad()
def score(network: Network, held: HeldOut, device: torch.device) -> Score:
    """Restore one septuplet in float32, and compare it with the truth."""
    output = network(to_tensor(held.lr).to(device)[None])[0]
    pixels = (output.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    restored = np.ascontiguousarray(pixels.cpu().numpy())
    ours, theirs = _psnr(restored, held.hr), _psnr(held.baseline, held.hr)
    return Score(
        name=held.name,
        original=float(ours[::2].mean()),
        interpolated=float(ours[1::2].mean()),
        original_gain=float((ours - theirs)[::2].mean()),
        interpolated_gain=float((ours - theirs)[1::2].mean()),
        restored=restored,
    )


def _psnr(frames: Frames, truth: Frames) -> NDArray[np.float64]:
    pairs = zip(frames, truth, strict=True)
    return np.array([metrics.psnr(metrics.luma(a), metrics.luma(b)) for a, b in pairs])


def summary(scores: Sequence[Score]) -> dict[str, float]:
    """Means over all septuplets, by name."""
    names = ("original", "interpolated", "original_gain", "interpolated_gain")
    return {name: float(np.mean([getattr(score, name) for score in scores])) for name in names}
