"""Bicubic enlargement by 4 as a convolution, so that every backend computes it the same way."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from zsm.evaluation import bicubic
from zsm.runtime import SCALE

_REACH = 2  # LR pixels to either side that an HR pixel depends on


def _kernels() -> Tensor:
    """One 5x5 kernel for each of the 16 HR pixels of an LR pixel: (16,1,5,5), float64."""
    side = 2 * _REACH + 1
    line = torch.tensor(bicubic.weights(side, SCALE)[SCALE * _REACH : SCALE * (_REACH + 1)])
    return torch.einsum("ay,bx->abyx", line, line).reshape(SCALE * SCALE, 1, side, side)


class Bicubic(nn.Module):
    """Half-pixel centres; beyond the border, edge pixels repeat."""

    kernels: Tensor

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("kernels", _kernels().float().repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, planes: Tensor) -> Tensor:
        """(N,C,H,W) to (N,C,4H,4W)."""
        padded = functional.pad(planes, 4 * [_REACH], mode="replicate")
        # The base stays in float32 where training computes the rest in less.
        with torch.autocast(planes.device.type, enabled=False):
            phases = functional.conv2d(padded, self.kernels, groups=self.channels)
        return functional.pixel_shuffle(phases, SCALE)
