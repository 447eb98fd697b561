"""Where training starts: at the baseline, and with alignments that change nothing.

A network with a bicubic base and its last convolution at zero is bicubic with frame averaging. An alignment
at the identity returns its source: the interpolation then averages its neighbours' features, and the
recurrence computes what it would without alignment, so a network may first train with a plain recurrence
and go on with a deformable one from the same outputs.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from zsm.errors import DataError
from zsm.export.model import Network, NetworkConfig, checkpoint
from zsm.export.model.layers import FinerAlign, MutualAlign
from zsm.export.model.network import StateAlign
from zsm.training.config import Start


def network(config: NetworkConfig, start: Start) -> Network:
    """A new network as `start` says; random values come from torch's generator."""
    made = Network(config)
    if start.base:
        start_at_base(made)
    if start.identity:
        start_at_identity(made)
    if start.weights is not None:
        _take_over(made, start.weights)
    return made


def _take_over(network: Network, path: Path) -> None:
    """Copy the parameters that both networks have; what only this one has stays as it is."""
    found, wanted = checkpoint.load(path).state_dict(), network.state_dict()
    shared = found.keys() & wanted.keys()
    odd = sorted(name for name in shared if found[name].shape != wanted[name].shape)
    if odd:
        raise DataError(f"the weights in {path} have another shape than the network's: {', '.join(odd)}")
    network.load_state_dict({name: found[name] for name in shared}, strict=False)


def start_at_base(network: Network) -> None:
    """Zero the last convolution."""
    nn.init.zeros_(network.reconstruction.last.weight)
    nn.init.zeros_(_bias(network.reconstruction.last))


def start_at_identity(network: Network) -> None:
    """Make every alignment return its source (the current values of other parameters don't matter)."""
    for module in network.modules():
        if isinstance(module, FinerAlign):
            # At zero offset the mask is sigmoid(0) = 1/2.
            _identity(module.deform.weight, _bias(module.deform), 2.0)
            _identity(module.merge.weight, _bias(module.merge), 1.0)
    if isinstance(network.interpolation, MutualAlign):
        _blend(network.interpolation.fusion, 0.5, 0.5)
    for module in network.modules():
        if isinstance(module, StateAlign):
            # Of feature toward state and state toward feature, the second is the state.
            _blend(module.align.fusion, 0.0, 1.0)


def _bias(module: nn.Module) -> Tensor:
    bias = module.bias
    assert isinstance(bias, Tensor)
    return bias


@torch.no_grad()
def _identity(weight: Tensor, bias: Tensor, gain: float) -> None:
    """The first of the input's halves (or all of it) through the kernel's middle."""
    weight.zero_()
    bias.zero_()
    channels = torch.arange(len(weight))
    weight[channels, channels, 1, 1] = gain


@torch.no_grad()
def _blend(fusion: nn.Module, first: float, second: float) -> None:
    weight = fusion.weight
    assert isinstance(weight, Tensor)
    eye = torch.eye(len(weight))
    weight.copy_(torch.cat((first * eye, second * eye), 1)[:, :, None, None])
    _bias(fusion).zero_()
