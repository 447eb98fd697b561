"""The modulated deformable convolution in PyTorch: for training, for reference, and as a node to export.

For an output position p and tap k at p_k of the kernel's window, the input is sampled bilinearly at
p + p_k + offset_k, zero outside the image, and multiplied by sigmoid(logit_k); the kernel's weights follow.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from zsm.plugins import operator

KERNEL = 3
TAPS = KERNEL * KERNEL


def deform_conv2d(x: Tensor, offset_mask: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """A 3x3 modulated deformable convolution with stride 1 and padding 1 (section 3.2).

    x (N,C,H,W); offset_mask (N,27*groups,H,W): 18 offsets per group as (dy,dx) pairs, then 9 mask logits per group;
    weight (O,C,3,3); bias (O). Returns (N,O,H,W).
    """
    if torch.compiler.is_exporting():
        return _node(x, offset_mask, weight, bias, groups)
    return deform_conv2d_plain(x, offset_mask, weight, bias, groups)


def deform_conv2d_plain(x: Tensor, offset_mask: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """The same in torch's own operators; the output has its channels last in memory."""
    n, c, h, w = x.shape
    offset, logit = offset_mask.split([2 * TAPS * groups, TAPS * groups], dim=1)
    # Coordinates need float32 even if features have less.
    offset = offset.to(torch.promote_types(offset.dtype, torch.float32))
    grid = _grid(offset.reshape(n * groups, TAPS, 2, h, w))
    sampled = functional.grid_sample(
        x.reshape(n * groups, c // groups, h, w).to(grid.dtype),
        grid,
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    sampled = sampled.reshape(n * groups, c // groups, TAPS, h * w)
    columns = sampled * logit.sigmoid().reshape(n * groups, 1, TAPS, h * w)
    out = weight.flatten(1) @ columns.reshape(n, c * TAPS, h * w).to(weight.dtype)
    # As other features are: under autocast in low precision, and in the layout that training is fastest with.
    out = (out + bias[:, None].to(out.dtype)).reshape(n, -1, h, w)
    return out.contiguous(memory_format=torch.channels_last)


def _grid(offset: Tensor) -> Tensor:
    """Offsets (M,9,2,H,W) in pixels to grid_sample's positions (M,9H,W,2), (x, y) in [-1, 1]."""
    h, w = offset.shape[-2:]
    y = torch.arange(h, dtype=offset.dtype, device=offset.device)[:, None]
    x = torch.arange(w, dtype=offset.dtype, device=offset.device)
    tap = torch.arange(TAPS, device=offset.device)[:, None, None]
    dy, dx = offset.unbind(2)
    positions = (x + dx + (tap % KERNEL - 1), w), (y + dy + (tap // KERNEL - 1), h)
    return torch.stack([(2 * position + 1) / side - 1 for position, side in positions], dim=-1).flatten(1, 2)


def _node(x: Tensor, offset_mask: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """The operator as one node of the exported graph."""
    attributes: dict[str, int | str | list[int]] = {
        "kernel_shape": [KERNEL, KERNEL],
        "strides": [1, 1],
        "pads": [KERNEL // 2] * 4,
        "dilations": [1, 1],
        "group": 1,
        "offset_group": groups,
        "plugin_version": str(operator.VERSION),
        "plugin_namespace": operator.DOMAIN,
    }
    return torch.onnx.ops.symbolic(
        f"{operator.DOMAIN}::{operator.NAME}",
        (x, offset_mask, weight, bias),
        attributes,  # type: ignore[arg-type]  # dict is invariant
        dtype=x.dtype,
        shape=(x.shape[0], weight.shape[0], x.shape[2], x.shape[3]),
        version=operator.VERSION,
    )


class DeformConv2d(nn.Module):
    """A deformable convolution of one feature, guided by another."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(width, width, KERNEL, KERNEL))
        self.bias = nn.Parameter(torch.zeros(width))
        self.offset_mask = nn.Conv2d(width, 3 * TAPS * groups, KERNEL, padding=KERNEL // 2)
        bound = (TAPS * width) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.offset_mask.weight)
        assert self.offset_mask.bias is not None
        nn.init.zeros_(self.offset_mask.bias)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Sample and convolve x (N,C,H,W) at offsets computed from the guide (N,C,H,W)."""
        return deform_conv2d(x, self.offset_mask(guide), self.weight, self.bias, self.groups)
