"""A training step: captured as a CUDA graph it learns what it learns without, and the average follows the weights."""

import copy
from dataclasses import replace
from typing import Literal, get_args

import pytest
import torch
from tests.needs import missing

from zsm.export.model import Network, NetworkConfig
from zsm.training.config import Optimiser, Run, TrainingConfig
from zsm.training.distributed import Processes
from zsm.training.losses import Objective
from zsm.training.step import Batch, Step, adam

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
        return lr.to(device), hr.to(device), times.to(device)

    return [batch() for _ in range(10)]


def learn(processes: Processes, precision: Precision, *, capture: bool) -> tuple[list[float], Network, Network]:
    """Make ten steps at a rising rate: their losses, the weights, and the weights' average."""
    torch.manual_seed(0)
    objective = Objective(Network(NETWORK), (1.0, 0.0, 0.0), 0).to(processes.device)
    average = copy.deepcopy(objective.network).requires_grad_(False)
    config = replace(CONFIG, run=Run(precision=precision))
    step = Step(config, objective, average, adam(objective, processes.device), processes, capture=capture)
    given = enumerate(batches(processes.device), start=1)
    return [step(batch, 1e-3 * rate).total.item() for rate, batch in given], objective.network, average


@pytest.mark.gpu
@pytest.mark.parametrize("precision", get_args(Precision))
def test_a_captured_step_learns_what_an_uncaptured_one_does(precision: Precision) -> None:
    if not torch.cuda.is_available():
        missing("torch-cuda", "torch finds no GPU")
    processes = Processes(device=torch.device("cuda"))
    captured, plain = (learn(processes, precision, capture=capture) for capture in (True, False))
    torch.testing.assert_close(captured[0], plain[0], rtol=1e-3, atol=0)
    for one, other in zip(captured[1:], plain[1:], strict=True):
        weights, expected = (torch.nn.utils.parameters_to_vector(network.parameters()) for network in (one, other))
        assert (weights - expected).norm() < 1e-2 * expected.norm()
    assert not torch.equal(
        torch.nn.utils.parameters_to_vector(captured[1].parameters()),
        torch.nn.utils.parameters_to_vector(captured[2].parameters()),
    )


def test_the_average_follows_the_weights() -> None:
    processes = Processes(device=torch.device("cpu"))
    torch.manual_seed(0)
    objective = Objective(Network(NETWORK), (1.0, 0.0, 0.0), 0)
    average = copy.deepcopy(objective.network).requires_grad_(False)
    step = Step(CONFIG, objective, average, adam(objective, processes.device), processes)
    expected = torch.nn.utils.parameters_to_vector(average.parameters()).clone()
    for batch in batches(processes.device)[:3]:
        step(batch, 1e-3)
        expected = 0.9 * expected + 0.1 * torch.nn.utils.parameters_to_vector(objective.network.parameters())
    torch.testing.assert_close(torch.nn.utils.parameters_to_vector(average.parameters()), expected.detach())
