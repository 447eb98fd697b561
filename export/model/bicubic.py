"""Bicubic enlargement by 4 as a convolution, so that every backend computes it the same way."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from zsm.runtime import SCALE

_REACH = 2  # LR pixels to either side that an HR pixel depends on


def _keys(distance: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -1/2, as MATLAB and Pillow have it."""
    d = distance.abs()
    near = (1.5 * d - 2.5) * d * d + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def _kernels() -> Tensor:
    """One 5x5 kernel for each of the 16 HR pixels of an LR pixel: (16,1,5,5), float64."""
    phase = (torch.arange(SCALE, dtype=torch.float64) + 0.5) / SCALE - 0.5
    tap = torch.arange(-_REACH, _REACH + 1, dtype=torch.float64)
    line = _keys(phase[:, None] - tap)
    return torch.einsum("ay,bx->abyx", line, line).reshape(SCALE * SCALE, 1, *2 * [2 * _REACH + 1])


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
