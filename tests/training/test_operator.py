import pytest
import torch
from tests.needs import module
from torch import Tensor

from zsm.export.model.deform_conv import TAPS, deform_conv2d_plain


def inputs(groups: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Make x, offsets and logits, weight and bias. Sampling positions lie between pixels, some outside the image."""
    torch.manual_seed(0)
    channels, height, width = 2 * groups, 4, 5
    offset = torch.randint(-2, 3, (1, 2 * TAPS * groups, height, width)) + 0.2 + 0.6 * torch.rand(1)
    offset_mask = torch.cat((offset, torch.randn(1, TAPS * groups, height, width)), 1)
    x = torch.randn(1, channels, height, width)
    weight, bias = torch.randn(3, channels, 3, 3), torch.randn(3)
    return tuple(tensor.to(dtype).requires_grad_() for tensor in (x, offset_mask, weight, bias))


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_equal_finite_differences(groups: int) -> None:
    def operator(x: Tensor, offset_mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return deform_conv2d_plain(x, offset_mask, weight, bias, groups)

    assert torch.autograd.gradcheck(operator, inputs(groups, torch.float64), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 2])
def test_agrees_with_torchvision(groups: int) -> None:
    ops = module("torchvision.ops", "torchvision", "pip install torchvision")
    x, offset_mask, weight, bias = inputs(groups, torch.float64)
    offset, logit = offset_mask.split([2 * TAPS * groups, TAPS * groups], 1)
    theirs = ops.deform_conv2d(x, offset, weight, bias, padding=1, mask=logit.sigmoid())
    ours = deform_conv2d_plain(x, offset_mask, weight, bias, groups)
    torch.testing.assert_close(ours, theirs)
    wanted = (x, offset_mask, weight, bias)
    gradients = [torch.autograd.grad(output.square().sum(), wanted, retain_graph=True) for output in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_positions_keep_their_precision_when_features_are_in_bfloat16() -> None:
    # bfloat16's eight bits can't represent a shift by 0.5 at column 300.
    x = torch.arange(320.0).sin()[None, None, None].expand(1, 1, 3, 320)
    offset_mask = torch.zeros(1, 3 * TAPS, 3, 320)
    offset_mask[:, 1 : 2 * TAPS : 2] = 0.5
    weight = torch.zeros(1, 1, 3, 3)
    weight[..., 1, 1] = 2
    low = [tensor.bfloat16() for tensor in (x, offset_mask, weight, torch.zeros(1))]
    expected = (x[..., :-1] + x[..., 1:]) / 2
    shifted = deform_conv2d_plain(low[0], low[1], low[2].float(), low[3].float(), 1)[..., :-1]
    torch.testing.assert_close(shifted, expected, atol=0.02, rtol=0)
