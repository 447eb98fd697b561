"""The building blocks: residual blocks, the feature pyramid, and alignment by deformable convolution."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from zsm.export.model.deform_conv import DeformConv2d


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size, or halves it with stride 2."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1)


def activate(x: Tensor) -> Tensor:
    """LeakyReLU, slope 0.1: the network's only activation outside residual blocks and gates."""
    return functional.leaky_relu(x, 0.1)


def double(x: Tensor) -> Tensor:
    """Twice the height and width, bilinear, half-pixel centres."""
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(width, width)
        self.conv2 = conv3x3(width, width)
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight)
            assert conv.bias is not None
            with torch.no_grad():
                conv.weight.mul_(0.1)
                conv.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) to the same."""
        return x + self.conv2(functional.relu(self.conv1(x)))


Levels = tuple[Tensor, ...]
"""A feature at 1, 1/2 and 1/4 of its size."""


class Pyramid(nn.Module):
    """A feature's coarser levels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.level2 = nn.ModuleList([conv3x3(width, width, stride=2), conv3x3(width, width)])
        self.level3 = nn.ModuleList([conv3x3(width, width, stride=2), conv3x3(width, width)])

    def forward(self, feature: Tensor) -> Levels:
        """(N,C,H,W), H and W multiples of 4, to its three levels."""
        level2 = feature
        for conv in self.level2:
            level2 = activate(conv(level2))
        level3 = level2
        for conv in self.level3:
            level3 = activate(conv(level3))
        return feature, level2, level3


class CoarsestAlign(nn.Module):
    """Alignment at quarter size, where nothing coarser guides it."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.offset1 = conv3x3(2 * width, width)
        self.offset2 = conv3x3(width, width)
        self.deform = DeformConv2d(width, groups)

    def forward(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The offset feature, and the source moved toward the target."""
        offset = activate(self.offset1(torch.cat((source, target), 1)))
        offset = activate(self.offset2(offset))
        return offset, activate(self.deform(source, offset))


class FinerAlign(nn.Module):
    """Alignment at one level, cascading from the next coarser one."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.offset1 = conv3x3(2 * width, width)
        self.offset2 = conv3x3(2 * width, width)
        self.offset3 = conv3x3(width, width)
        self.deform = DeformConv2d(width, groups)
        self.merge = conv3x3(2 * width, width)

    def forward(
        self, source: Tensor, target: Tensor, coarser_offset: Tensor, coarser_aligned: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The offset feature, and the source moved toward the target (before any activation)."""
        offset = activate(self.offset1(torch.cat((source, target), 1)))
        # An offset of one pixel is two pixels on a level of twice the size.
        offset = activate(self.offset2(torch.cat((offset, 2 * double(coarser_offset)), 1)))
        offset = activate(self.offset3(offset))
        aligned = self.deform(source, offset)
        return offset, self.merge(torch.cat((aligned, double(coarser_aligned)), 1))


class Align(nn.Module):
    """Moves one feature toward another: pyramid, cascading and deformable (section 3.6)."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.level3 = CoarsestAlign(width, groups)
        self.level2 = FinerAlign(width, groups)
        self.level1 = FinerAlign(width, groups)

    def forward(self, source: Levels, target: Levels) -> Tensor:
        """Two features' levels to the source aligned toward the target, full size."""
        (source1, source2, source3), (target1, target2, target3) = source, target
        offset, aligned = self.level3(source3, target3)
        offset, aligned = self.level2(source2, target2, offset, aligned)
        _, aligned = self.level1(source1, target1, offset, activate(aligned))
        return aligned


class MutualAlign(nn.Module):
    """Aligns two features toward each other, with parameters of their own, and blends them (eqs. 1 to 4)."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.first = Align(width, groups)
        self.second = Align(width, groups)
        self.fusion = nn.Conv2d(2 * width, width, 1)

    def forward(self, first: Levels, second: Levels) -> Tensor:
        """Two features' levels to one feature, full size."""
        aligned = (self.first(first, second), self.second(second, first))
        return self.fusion(torch.cat(aligned, 1))
