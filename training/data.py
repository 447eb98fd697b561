"""Training examples: septuplets cropped, turned and degraded, in an order that a seed fixes.

Example number k is the same whatever came before it, how many processes load examples, and when training
was interrupted: its random choices come from (seed, k) alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from zsm.errors import DataError
from zsm.evaluation import bicubic
from zsm.evaluation.degradations import Degradation
from zsm.evaluation.layouts import Clip
from zsm.runtime import SCALE
from zsm.training.footage import SEPTUPLET, Footage

Frames = NDArray[np.uint8]


class Septuplets(Protocol):
    """Numbered septuplets: HR (7,H,W,3), LR (7,H/4,W/4,3), and the LR frames to be restored (4,H/4,W/4,3), uint8."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> tuple[Frames, Frames, Frames]: ...


class FootageSeptuplets:
    """Every septuplet of prepared footage, in each of its LR versions; nothing is read before it is cropped."""

    def __init__(self, footage: Sequence[Footage]) -> None:
        self._footage = footage
        self._ends = np.cumsum([clip.versions * len(clip.starts) for clip in footage])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, number: int) -> tuple[Frames, Frames, Frames]:
        """Views of memory-mapped frames; the input is one of the versions."""
        index = int(np.searchsorted(self._ends, number, side="right"))
        clip = self._footage[index]
        begin = int(self._ends[index]) - clip.versions * len(clip.starts)
        version, place = divmod(number - begin, len(clip.starts))
        start = clip.starts[place]
        span = slice(start, start + SEPTUPLET)
        return clip.hr[span], clip.lr()[span], clip.lr(version)[span][::2]


class ImageSeptuplets:
    """Vimeo-90K's septuplets, read from their seven image files each time."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        self._clips = clips

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, number: int) -> tuple[Frames, Frames, Frames]:
        """The frames, and their bicubic reduction."""
        hr = self._clips[number].read()
        height, width = (side // SCALE * SCALE for side in hr.shape[1:3])
        hr = hr[:, :height, :width]
        lr = bicubic.resize(hr, 1 / SCALE)
        return hr, lr, lr[::2]


@dataclass(frozen=True, kw_only=True)
class Examples(Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Example number k: the input (4,3,s,s), LR (7,3,s,s) and HR (K,3,4s,4s), and which K outputs those are.

    Pixels are uint8, the outputs' numbers int64.

    crop: s, in LR pixels.
    outputs: K, how many of the seven outputs are compared with the truth.
    candidates: places drawn for each crop, of which the one that changes most from frame to frame is taken.
    degradation: done to the input.
    """

    septuplets: Septuplets
    seed: int
    crop: int
    outputs: int = SEPTUPLET
    candidates: int = 1
    degradation: Degradation | None = None

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same for the same number, whoever asks."""
        epoch, position = divmod(number, len(self.septuplets))
        hr, lr, inputs = self.septuplets[int(_order(self.seed, epoch, len(self.septuplets))[position])]
        rng = np.random.default_rng((self.seed, 1, number))
        top, left = self._place(lr, rng)
        turn = Turn.draw(rng)
        hr = turn(_cut(hr, SCALE * top, SCALE * left, SCALE * self.crop))
        lr, inputs = (turn(_cut(frames, top, left, self.crop)) for frames in (lr, inputs))
        if self.degradation is not None:
            inputs = self.degradation(inputs, rng)
        times = np.sort(rng.permutation(SEPTUPLET)[: self.outputs])
        return _planes(inputs), _planes(lr), _planes(hr[times]), torch.from_numpy(times)

    def _place(self, lr: Frames, rng: np.random.Generator) -> tuple[int, int]:
        check_size("a septuplet", lr, self.crop)
        height, width = lr.shape[1:3]
        places = [
            (int(rng.integers(height - self.crop + 1)), int(rng.integers(width - self.crop + 1)))
            for _ in range(self.candidates)
        ]
        if len(places) == 1:
            return places[0]
        return max(places, key=lambda place: _change(_cut(lr, place[0], place[1], self.crop)))


def check_size(name: str, lr: Frames, crop: int) -> None:
    """Raise DataError if LR frames (N,h,w,3) are smaller than the crops."""
    height, width = lr.shape[1:3]
    if min(height, width) < crop:
        raise DataError(
            f"{name} has frames of {SCALE * width}x{SCALE * height}, too small for crops of {SCALE * crop};"
            " leave it out, or lower data.crop"
        )


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, length: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, 0, epoch)).permutation(length)


def _cut(frames: Frames, top: int, left: int, side: int) -> Frames:
    return frames[:, top : top + side, left : left + side]


def _change(frames: Frames) -> float:
    return float(np.abs(np.diff(frames.astype(np.int16), axis=0)).mean())


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One of the 16 ways to turn a square septuplet: quarter turns, mirrored or not, forward or backward."""

    quarters: int
    mirrored: bool
    reversed: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Turn":
        """All equally likely."""
        quarters, mirrored, backward = rng.integers((4, 2, 2))
        return cls(quarters=int(quarters), mirrored=bool(mirrored), reversed=bool(backward))

    def __call__(self, frames: Frames) -> Frames:
        """Turn (N,H,W,3)."""
        frames = np.rot90(frames, self.quarters, (1, 2))
        frames = frames[:, :, ::-1] if self.mirrored else frames
        return frames[::-1] if self.reversed else frames


def to_tensor(frames: Frames) -> Tensor:
    """(N,H,W,3) uint8 to (N,3,H,W) float32 in [0, 1]."""
    return to_float(_planes(frames))


def to_float(pixels: Tensor) -> Tensor:
    """uint8 to float32 in [0, 1]."""
    return pixels.float() / 255


def _planes(frames: Frames) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2)))
