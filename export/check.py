"""Checks that a bundle computes what its network computes."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from zsm.engine.bundle.manifest import Bundle, Precision
from zsm.engine.runtime import Runtime
from zsm.export.model import Network
from zsm.export.pixels import PIXEL_TYPES
from zsm.runtime import GRID

LIMIT_ABSOLUTE = 1e-4
"""For fp32; outputs are of order 1."""
LIMIT_PSNR = 55.0
"""For fp16, in dB at peak 1."""
LIMIT_INT8 = 25.0
"""For int8, in dB at peak 1, on noise; the loss on real clips is measured when the layers are chosen."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference between a bundle's outputs and the network's in float32."""

    precision: Precision
    int8: bool = False
    max_abs: float
    psnr: float

    @property
    def acceptable(self) -> bool:
        """Whether rounding explains the difference."""
        if self.precision == "fp32" and not self.int8:
            return self.max_abs <= LIMIT_ABSOLUTE
        return self.psnr >= self._least_psnr

    @property
    def _least_psnr(self) -> float:
        return LIMIT_INT8 if self.int8 else LIMIT_PSNR

    def __str__(self) -> str:
        exact = self.precision == "fp32" and not self.int8
        limit = f"{LIMIT_ABSOLUTE:g}" if exact else f"{self._least_psnr:g} dB"
        return f"max. abs. error {self.max_abs:.2g}, PSNR {self.psnr:.1f} dB (limit {limit})"


def reference(network: Network, clip: Tensor) -> Tensor:
    """Run a clip (N,H,W,3) in [0, 1] through the PyTorch network: (2N-1,4H,4W,3), not clipped."""
    planes = clip.movedim(-1, 1)[None]
    height, width = clip.shape[1:3]
    missing = (0, -width % GRID, 0, -height % GRID)
    if network.config.base == "bicubic":
        padded = functional.pad(planes[0], missing, mode="replicate")[None]
    else:
        padded = functional.pad(planes, missing)
    with torch.no_grad():
        out: Tensor = network(padded)[0]
    return out[..., : 4 * height, : 4 * width].movedim(1, -1)


def compare(network: Network, folder: Path) -> Difference:
    """Run a random clip of each pixel type through the bundle on ONNX Runtime, and through the network.

    For integer pixels, the half level of rounding isn't counted as an error.
    """
    bundle = Bundle(folder)
    clip = torch.rand(3, 22, 27, 3, generator=torch.Generator().manual_seed(0))
    errors, mse = [], []
    with Runtime(bundle) as runtime:
        for pixels, white in PIXEL_TYPES.items():
            given = clip.numpy() if pixels == "float32" else np.rint(clip.numpy() * white).astype(pixels)
            expected = reference(network, torch.from_numpy(given.astype(np.float32) / np.float32(white))).numpy()
            found = runtime(given).astype(np.float64) / white
            rounding = 0.0 if pixels == "float32" else 0.5 / white
            if rounding:
                expected = np.clip(expected, 0, 1)
            error = np.maximum(np.abs(found - expected) - rounding, 0)
            errors.append(error.max())
            mse.append(np.mean(error**2))
    return Difference(
        precision=bundle.manifest.precision,
        int8=bundle.manifest.quantisation is not None,
        max_abs=float(np.max(errors)),  # NaN if any is
        psnr=-10 * math.log10(worst) if (worst := float(np.max(mse))) else math.inf,
    )
