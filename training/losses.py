"""What training minimises (section 3.5): reconstruction, and guidance of the interpolated features."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from zsm.export.model import Network
from zsm.export.model.layers import ResidualBlock, conv3x3

EPSILON = 1e-3


def charbonnier(predicted: Tensor, truth: Tensor) -> Tensor:
    """Eq. 7, for each value: sqrt(d^2 + 1e-6), and the mean over all of them.

    The paper doesn't say how values combine. The released code adds them up; the mean differs by a constant,
    which Adam doesn't see, and makes the weights of eq. 10 independent of sizes.
    """
    return torch.sqrt((predicted.to(truth.dtype) - truth).square() + EPSILON**2).mean()


class LrSynthesis(nn.Module):
    """rho: from a feature the LR frame that it stands for. Exists in training only."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.last = conv3x3(width, 3)

    def forward(self, feature: Tensor) -> Tensor:
        """(N,C,H,W) to (N,3,H,W)."""
        return self.last(self.blocks(feature))


def interpolate_between(network: Network, features: Tensor) -> Tensor:
    """Features of T frames (B,T,C,H,W) to those of the T-1 frames between neighbours."""
    pyramid = network.extraction.pyramid
    levels = [(f,) if pyramid is None else pyramid(f) for f in features.unbind(1)]
    return torch.stack([network.interpolation(*pair) for pair in pairwise(levels)], 1)


def cyclic(network: Network, synthesis: LrSynthesis, features: Tensor, lr: Tensor) -> tuple[Tensor, Tensor]:
    """The first- and second-order interpolation losses, eqs. 8 and 9.

    features (B,T,C,H,W) of the whole sequence, of which every second is interpolated; lr (B,T,3,H,W), the
    true LR frames. The interpolated frames are compared, then what is interpolated again between them: for
    T = 7 frames 2, 4, 6 and frames 3, 5. Needs T of at least 5.
    """
    first = features[:, 1::2]
    second = interpolate_between(network, first)
    synthesised = [synthesis(f.flatten(0, 1)).unflatten(0, f.shape[:2]) for f in (first, second)]
    return charbonnier(synthesised[0], lr[:, 1::2]), charbonnier(synthesised[1], lr[:, 2:-1:2])


@dataclass(frozen=True)
class Losses:
    """The parts of eq. 10 and their weighted sum; scalars."""

    total: Tensor
    reconstruction: Tensor
    first_order: Tensor
    second_order: Tensor


class Objective(nn.Module):
    """The network and its loss as one module: LR and HR septuplets in, losses out."""

    def __init__(self, network: Network, weights: tuple[float, float, float], synthesis_blocks: int) -> None:
        """`weights` are lambda 1 to 3. Without lambda 2 and 3 there is no synthesis."""
        super().__init__()
        self.network = network
        self.weights = weights
        width = network.config.width
        self.synthesis = LrSynthesis(width, synthesis_blocks) if any(weights[1:]) else None

    def forward(self, lr: Tensor, hr: Tensor) -> Losses:
        """lr (B,7,3,h,w), of which the odd frames are the input; hr (B,7,3,4h,4w)."""
        inputs = lr[:, ::2]
        features = self.network.features(inputs)
        reconstruction = charbonnier(self.network.restore(features, inputs), hr)
        first = second = torch.zeros_like(reconstruction)
        if self.synthesis is not None:
            first, second = cyclic(self.network, self.synthesis, features, lr)
        parts = (reconstruction, first, second)
        total = torch.stack([weight * part for weight, part in zip(self.weights, parts, strict=True)]).sum()
        return Losses(total, *parts)
