import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from zsm.export.model import Network, NetworkConfig
from zsm.training.losses import LrSynthesis, Objective, charbonnier, cyclic

GENTLE = NetworkConfig(width=4, extraction_blocks=1, reconstruction_blocks=1, deformable_groups=2)


@pytest.fixture
def network() -> Network:
    """In float64, with offsets off whole pixels, at which bilinear sampling isn't differentiable."""
    torch.manual_seed(0)
    network = Network(GENTLE).double()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("offset_mask.bias"):
                parameter.uniform_(0.2, 0.4)
            if name.endswith("offset_mask.weight"):
                parameter.normal_(std=0.01)
    return network


@pytest.fixture
def synthesis() -> LrSynthesis:
    torch.manual_seed(1)
    return LrSynthesis(GENTLE.width, blocks=1).double()


def test_the_charbonnier_loss_follows_eq_7() -> None:
    predicted, truth = torch.tensor([0.0, 3e-3, 1.0]), torch.zeros(3)
    expected = (1e-3 + math.hypot(3e-3, 1e-3) + math.hypot(1, 1e-3)) / 3
    assert charbonnier(predicted, truth).item() == pytest.approx(expected, rel=1e-6)


@torch.no_grad()
def test_the_rms_loss_averages_the_root_of_each_frames_squared_error() -> None:
    torch.manual_seed(7)
    network = Network(replace(GENTLE, base="bicubic"))
    lr, hr = torch.rand(2, 7, 3, 8, 8), torch.rand(2, 7, 3, 32, 32)
    found = Objective(network, (1.0, 0.0, 0.0), synthesis_blocks=0, form="rms")(lr[:, ::2], lr, hr).reconstruction
    difference = (network(lr[:, ::2]) - hr).numpy().reshape(14, -1)
    expected = (np.linalg.norm(difference, axis=1) / difference.shape[1] ** 0.5).mean()
    assert found.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("order", [0, 1])
def test_gradients_of_the_cyclic_losses_equal_finite_differences(
    network: Network, synthesis: LrSynthesis, order: int
) -> None:
    torch.manual_seed(2)
    features = torch.randn(1, 7, GENTLE.width, 4, 4, dtype=torch.float64, requires_grad=True)
    lr = torch.rand(1, 7, 3, 4, 4, dtype=torch.float64)

    def loss(features: Tensor) -> Tensor:
        return cyclic(network, synthesis, features, lr)[order]

    # Fast mode compares along random directions instead of along each of the 448 values.
    assert torch.autograd.gradcheck(loss, (features,), eps=1e-6, atol=1e-6, fast_mode=True)


def test_cyclic_losses_compare_the_frames_of_eqs_8_and_9(network: Network, synthesis: LrSynthesis) -> None:
    """Written out frame by frame: 2, 4, 6 as interpolated, 3 and 5 as interpolated between those."""
    torch.manual_seed(3)
    frames, lr = (torch.rand(1, n, 3, 8, 8, dtype=torch.float64) for n in (4, 7))
    features = network.features(frames)
    levels = [network.extraction.pyramid(features[:, t]) for t in (1, 3, 5)]  # type: ignore[misc]
    again = [network.interpolation(*pair) for pair in pairwise(levels)]
    first = [charbonnier(synthesis(features[:, t]), lr[:, t]) for t in (1, 3, 5)]
    second = [charbonnier(synthesis(feature), lr[:, t]) for feature, t in zip(again, (2, 4), strict=True)]
    expected = torch.stack(first).mean(), torch.stack(second).mean()
    torch.testing.assert_close(cyclic(network, synthesis, features, lr), expected)


def test_the_total_is_the_weighted_sum() -> None:
    torch.manual_seed(4)
    objective = Objective(Network(GENTLE), (1.0, 0.5, 0.25), synthesis_blocks=1)
    losses = objective(torch.rand(1, 4, 3, 8, 8), torch.rand(1, 7, 3, 8, 8), torch.rand(1, 7, 3, 32, 32))
    expected = losses.reconstruction + 0.5 * losses.first_order + 0.25 * losses.second_order
    torch.testing.assert_close(losses.total, expected)
    assert min(losses.first_order.item(), losses.second_order.item()) > 0


@torch.no_grad()
def test_chosen_outputs_are_those_of_the_whole_sequence() -> None:
    torch.manual_seed(6)
    network = Network(replace(GENTLE, base="bicubic"))
    lr, hr = torch.rand(2, 7, 3, 8, 8), torch.rand(2, 7, 3, 32, 32)
    times = torch.tensor([[0, 3, 4], [1, 2, 6]])
    objective = Objective(network, (1.0, 0.0, 0.0), synthesis_blocks=0)
    whole = network(lr[:, ::2])
    chosen = torch.stack([whole[clip, times[clip]] for clip in range(2)])
    truth = torch.stack([hr[clip, times[clip]] for clip in range(2)])
    torch.testing.assert_close(objective(lr[:, ::2], lr, truth, times).total, charbonnier(chosen, truth))


def test_without_guidance_there_is_no_synthesis_module() -> None:
    objective = Objective(Network(GENTLE), (1.0, 0.0, 0.0), synthesis_blocks=1)
    assert objective.synthesis is None


def test_guidance_trains_the_interpolation_but_not_the_reconstruction() -> None:
    torch.manual_seed(5)
    objective = Objective(Network(GENTLE), (0.0, 1.0, 1.0), synthesis_blocks=1)
    objective(torch.rand(1, 4, 3, 8, 8), torch.rand(1, 7, 3, 8, 8), torch.rand(1, 7, 3, 32, 32)).total.backward()
    network = objective.network
    interpolation = [parameter.grad for parameter in network.interpolation.parameters()]
    assert all(gradient is not None for gradient in interpolation)
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in interpolation)
    reconstruction = [parameter.grad for parameter in network.reconstruction.parameters()]
    assert all(gradient is None or not gradient.any() for gradient in reconstruction)
