"""A training step: captured as a CUDA graph it learns what it learns without, and the average follows the weights."""

from dataclasses import replace
from typing import Literal, get_args

import pytest
import torch
from tests.needs import torch_cuda

from zsm.export.model import Network, NetworkConfig
from zsm.training.config import Optimiser, Run, TrainingConfig
from zsm.training.distributed import Processes
from zsm.training.step import Batch, Step

NETWORK = NetworkConfig(
    width=16, extraction_blocks=1, reconstruction_blocks=2, deformable_groups=2, base="bicubic", recurrence="plain"
)
CONFIG = TrainingConfig(network=NETWORK, optimiser=Optimiser(batch=2, average=0.9))
Precision = Literal["float32", "bfloat16"]


def batches(device: torch.device) -> list[Batch]:
    random = torch.Generator().manual_seed(1)

    def batch() -> Batch:
        lr = torch.randint(256, (2, 7, 3, 16, 16), dtype=torch.uint8, generator=random)
        hr = torch.randint(256, (2, 3, 3, 64, 64), dtype=torch.uint8, generator=random)
        times = torch.stack([torch.randperm(7, generator=random)[:3].sort().values for _ in range(2)])
        return lr[:, ::2].to(device), lr.to(device), hr.to(device), times.to(device)

    return [batch() for _ in range(10)]


def learn(processes: Processes, precision: Precision, *, capture: bool) -> tuple[list[float], Network, Network]:
    """Make ten steps at a rising rate: their losses, the weights, and the weights' average."""
    torch.manual_seed(0)
    step = Step(replace(CONFIG, run=Run(precision=precision)), Network(NETWORK), processes, capture=capture)
    given = enumerate(batches(processes.device), start=1)
    return [step(batch, 1e-3 * rate).total.item() for rate, batch in given], step.objective.network, step.average


def vector(network: Network) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.mark.gpu
@pytest.mark.parametrize("precision", get_args(Precision))
def test_a_captured_step_learns_what_an_uncaptured_one_does(precision: Precision) -> None:
    torch_cuda()
    processes = Processes(device=torch.device("cuda"))
    captured, plain = (learn(processes, precision, capture=capture) for capture in (True, False))
    torch.testing.assert_close(captured[0], plain[0], rtol=1e-3, atol=0)
    for one, other in zip(captured[1:], plain[1:], strict=True):
        assert (vector(one) - vector(other)).norm() < 1e-2 * vector(other).norm()
    assert not torch.equal(vector(captured[1]), vector(captured[2]))


def test_the_average_follows_the_weights() -> None:
    processes = Processes(device=torch.device("cpu"))
    torch.manual_seed(0)
    step = Step(CONFIG, Network(NETWORK), processes)
    expected = vector(step.average)
    for batch in batches(processes.device)[:3]:
        step(batch, 1e-3)
        expected = 0.9 * expected + 0.1 * vector(step.objective.network)
    torch.testing.assert_close(vector(step.average), expected)
