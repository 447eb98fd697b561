"""The training loss (section 3.5): reconstruction, and guidance of the interpolated features."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from zsm.export.model import Network
from zsm.export.model.layers import ResidualBlock, conv3x3
from zsm.training.config import LossForm

EPSILON = 1e-3


def charbonnier(predicted: Tensor, truth: Tensor) -> Tensor:
    """Eq. 7: the mean of sqrt(d^2 + 1e-6) over all values.

    The paper doesn't say how values are combined, and the released code adds them up. The mean differs by a constant
    factor, to which Adam is invariant, and makes the weights of eq. 10 independent of the crop's size.
    """
    return torch.sqrt((predicted.to(truth.dtype) - truth).square() + EPSILON**2).mean()


def rms(predicted: Tensor, truth: Tensor) -> Tensor:
    """The root of each frame's mean squared error, averaged over frames (...,3,H,W).

    A frame's PSNR depends on this error alone. Its gradient has about the same norm for every frame, so that frames
    with small errors count as much as those with large ones.
    """
    squared = (predicted.to(truth.dtype) - truth).square().mean((-3, -2, -1))
    return torch.sqrt(squared + EPSILON**2).mean()


RECONSTRUCTION: dict[LossForm, Callable[[Tensor, Tensor], Tensor]] = {"charbonnier": charbonnier, "rms": rms}


class LrSynthesis(nn.Module):
    """rho: synthesises the LR frame from its feature. Used in training only."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.last = conv3x3(width, 3)

    def forward(self, feature: Tensor) -> Tensor:
        """Features (N,C,H,W) to LR frames (N,3,H,W)."""
        return self.last(self.blocks(feature))


def interpolate_between(network: Network, features: Tensor) -> Tensor:
    """Interpolate between the features of T frames (B,T,C,H,W): those of the T-1 frames between them."""
    pyramid = network.extraction.pyramid
    levels = [(f,) if pyramid is None else pyramid(f) for f in features.unbind(1)]
    return torch.stack([network.interpolation(*pair) for pair in pairwise(levels)], 1)


def cyclic(network: Network, synthesis: LrSynthesis, features: Tensor, lr: Tensor) -> tuple[Tensor, Tensor]:
    """First- and second-order interpolation losses (eqs. 8 and 9).

    `features` (B,T,C,H,W), T >= 5, are those of the whole sequence, every other one interpolated; `lr` (B,T,3,H,W)
    are the true LR frames. The first order compares the interpolated frames (2, 4, 6 for T = 7), the second order
    those interpolated again between these (3, 5).
    """
    first = features[:, 1::2]
    second = interpolate_between(network, first)
    synthesised = [synthesis(f.flatten(0, 1)).unflatten(0, f.shape[:2]) for f in (first, second)]
    return charbonnier(synthesised[0], lr[:, 1::2]), charbonnier(synthesised[1], lr[:, 2:-1:2])


@dataclass(frozen=True)
class Losses:
    """The terms of eq. 10, unweighted, and their weighted sum; scalars."""

    total: Tensor
    reconstruction: Tensor
    first_order: Tensor
    second_order: Tensor


class Objective(nn.Module):
    """The network and its loss in one module: the input, and true LR and HR frames, in, losses out."""

    def __init__(
        self,
        network: Network,
        weights: tuple[float, float, float],
        synthesis_blocks: int,
        form: LossForm = "charbonnier",
    ) -> None:
        """`weights` are lambda 1 to 3; if lambda 2 and 3 are zero, there is no synthesis module.

        form: the reconstruction loss.
        """
        super().__init__()
        self.network = network
        self.weights = weights
        self.compare = RECONSTRUCTION[form]
        width = network.config.width
        self.synthesis = LrSynthesis(width, synthesis_blocks) if any(weights[1:]) else None

    def forward(self, inputs: Tensor, lr: Tensor, hr: Tensor, times: Tensor | None = None) -> Losses:
        """Compute the losses for an input (B,4,3,h,w), which may be degraded, of LR (B,7,3,h,w) and HR (B,K,3,4h,4w).

        times: (B,K), the outputs to reconstruct; `hr` is the truth of these. All seven by default.
        """
        features = self.network.features(inputs)
        reconstruction = self.compare(self.network.restore(features, inputs, times), hr)
        first = second = torch.zeros_like(reconstruction)
        if self.synthesis is not None:
            first, second = cyclic(self.network, self.synthesis, features, lr)
        parts = (reconstruction, first, second)
        total = torch.stack([weight * part for weight, part in zip(self.weights, parts, strict=True)]).sum()
        return Losses(total, *parts)
