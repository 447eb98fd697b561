"""Initial weights: random ones, another run's, or ones that start at the baseline.

A network with base `bicubic` whose last convolution is zero computes the baseline: bicubic enlargement and frame
averaging. An alignment at the identity returns its source. The interpolation then averages its neighbours'
features, and a recurrence that aligns or refines its states computes what a plain one would, so that a network can
first be trained with a plain recurrence and continue with another from the same outputs.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from zsm.errors import DataError
from zsm.export.model import Network, NetworkConfig, checkpoint
from zsm.export.model.layers import FinerAlign, MutualAlign, ResidualBlock
from zsm.export.model.network import StateAlign, StateRefinement
from zsm.training.config import Start


def network(config: NetworkConfig, start: Start) -> Network:
    """Make a network with the initial weights that `start` describes, drawing random ones from torch's generator.

    Raises DataError if weights can't be read, or differ in shape from the network's.
    """
    made = Network(config)
    if start.base:
        start_at_base(made)
    if start.identity:
        start_at_identity(made)
    if start.weights is not None:
        _copy_weights(made, start.weights)
    return made


def _copy_weights(network: Network, path: Path) -> None:
    """Copy the parameters that both networks have, and leave the others unchanged."""
    found, wanted = checkpoint.load(path).state_dict(), network.state_dict()
    shared = found.keys() & wanted.keys()
    different = sorted(name for name in shared if found[name].shape != wanted[name].shape)
    if different:
        raise DataError(
            f"weights in {path} don't have the network's shape: {', '.join(different)};"
            " give the table [network] they were trained with, or other start.weights"
        )
    network.load_state_dict({name: found[name] for name in shared}, strict=False)


def start_at_base(network: Network) -> None:
    """Zero the last convolution."""
    nn.init.zeros_(network.reconstruction.last.weight)
    nn.init.zeros_(_bias(network.reconstruction.last))


def start_at_identity(network: Network) -> None:
    """Make every alignment and refinement return its source. Offsets must be zero, as they are in a new network."""
    for module in network.modules():
        if isinstance(module, FinerAlign):
            # At zero offset the mask is sigmoid(0) = 1/2.
            _identity(module.deform.weight, _bias(module.deform), 2.0)
            _identity(module.merge.weight, _bias(module.merge), 1.0)
    if isinstance(network.interpolation, MutualAlign):
        _blend(network.interpolation.fusion, 0.5, 0.5)
    for module in network.modules():
        if isinstance(module, StateAlign):
            # The alignment gives (feature aligned to state, state aligned to feature); take the second.
            _blend(module.align.fusion, 0.0, 1.0)
        if isinstance(module, StateRefinement):
            _blend(module.merge, 0.0, 1.0)
            for block in module.blocks.children():
                assert isinstance(block, ResidualBlock)
                nn.init.zeros_(block.conv2.weight)


def _bias(module: nn.Module) -> Tensor:
    bias = module.bias
    assert isinstance(bias, Tensor)
    return bias


@torch.no_grad()
def _identity(weight: Tensor, bias: Tensor, gain: float) -> None:
    """Make a convolution pass on its first input channels, times `gain`."""
    weight.zero_()
    bias.zero_()
    channels = torch.arange(len(weight))
    weight[channels, channels, 1, 1] = gain


@torch.no_grad()
def _blend(fusion: nn.Module, first: float, second: float) -> None:
    """Make a 1x1 convolution compute a weighted sum of the two halves of its input."""
    weight = fusion.weight
    assert isinstance(weight, Tensor)
    eye = torch.eye(len(weight))
    weight.copy_(torch.cat((first * eye, second * eye), 1)[:, :, None, None])
    _bias(fusion).zero_()
