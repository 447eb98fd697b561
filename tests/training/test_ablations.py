"""The configurations of the paper's table 5: their size, and that they train and export."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from zsm.engine import Runtime
from zsm.export import export_bundle
from zsm.export.model import Network
from zsm.training import config
from zsm.training.losses import Objective

CONFIGS = Path(__file__).parents[2] / "training" / "configs"
WIDTH, GROUPS = 64, 8


def conv(inputs: int, outputs: int, side: int = 3) -> int:
    """Number of parameters of a convolution."""
    return side * side * inputs * outputs + outputs


BLOCKS = 2 * conv(WIDTH, WIDTH)
PYRAMID = 4 * conv(WIDTH, WIDTH)
DEFORMABLE = conv(WIDTH, WIDTH) + conv(WIDTH, 27 * GROUPS)
COARSEST = conv(2 * WIDTH, WIDTH) + conv(WIDTH, WIDTH) + DEFORMABLE
FINER = 3 * conv(2 * WIDTH, WIDTH) + conv(WIDTH, WIDTH) + DEFORMABLE
FUSION = conv(2 * WIDTH, WIDTH, 1)
ALIGN = 2 * (COARSEST + 2 * FINER) + FUSION
EXTRACTION = conv(3, WIDTH) + 5 * BLOCKS
RECONSTRUCTION = 40 * BLOCKS + 2 * conv(WIDTH, 4 * WIDTH) + conv(WIDTH, WIDTH) + conv(WIDTH, 3)
GATES = conv(2 * WIDTH, 4 * WIDTH)
ALIGNED_STATES = 2 * (PYRAMID + ALIGN)


@dataclass(frozen=True)
class Ablation:
    file: str
    parameters: int
    guided: bool = False


NAIVE = EXTRACTION + FUSION + RECONSTRUCTION
SAMPLED = EXTRACTION + PYRAMID + ALIGN + RECONSTRUCTION
ABLATIONS = [
    Ablation("ablation-a-naive-interpolation", NAIVE),
    Ablation("ablation-b-deformable-interpolation", SAMPLED),
    Ablation("ablation-c-convlstm", SAMPLED + GATES),
    Ablation("ablation-d-deformable-convlstm", SAMPLED + GATES + ALIGNED_STATES),
    Ablation("ablation-e-bidirectional", SAMPLED + GATES + ALIGNED_STATES + FUSION),
    Ablation("paper", SAMPLED + GATES + ALIGNED_STATES + FUSION, guided=True),
]
each_ablation: Callable[..., pytest.MarkDecorator] = pytest.mark.parametrize(
    "ablation", ABLATIONS, ids=lambda ablation: ablation.file
)


def load(ablation: Ablation) -> config.TrainingConfig:
    return config.load(CONFIGS / f"{ablation.file}.toml")


def small(ablation: Ablation) -> Network:
    """Make the ablation's network, but narrow and shallow."""
    return Network(
        replace(load(ablation).network, width=8, extraction_blocks=1, reconstruction_blocks=1, deformable_groups=2)
    )


@each_ablation
def test_the_number_of_parameters_equals_a_count_by_hand(ablation: Ablation) -> None:
    with torch.device("meta"):
        network = Network(load(ablation).network)
    assert sum(parameter.numel() for parameter in network.parameters()) == ablation.parameters


def test_the_whole_method_has_as_many_parameters_as_in_the_paper() -> None:
    assert ABLATIONS[-1].parameters / 1e6 == pytest.approx(11.10, abs=0.005)


@each_ablation
def test_one_step_changes_every_parameter(ablation: Ablation) -> None:
    torch.manual_seed(0)
    loss = load(ablation).loss
    assert any(loss.weights[1:]) == ablation.guided
    objective = Objective(small(ablation), loss.weights, loss.synthesis_blocks)
    with torch.no_grad():
        for name, parameter in objective.named_parameters():
            if "offset_mask" in name:  # while these are zero, as initially, the layers before them get no gradient
                parameter.normal_(std=0.1)
    before = {name: parameter.detach().clone() for name, parameter in objective.named_parameters()}
    adam = torch.optim.Adam(objective.parameters())
    objective(torch.rand(1, 4, 3, 8, 8), torch.rand(1, 7, 3, 8, 8), torch.rand(1, 7, 3, 32, 32)).total.backward()
    adam.step()
    still = [name for name, parameter in objective.named_parameters() if torch.equal(parameter, before[name])]
    assert not still


# (e) and (f) have the network that the export tests use.
@pytest.mark.parametrize(
    "ablation",
    [pytest.param(ablation, marks=pytest.mark.slow) for ablation in ABLATIONS[:4]],
    ids=lambda ablation: ablation.file,
)
def test_export_gives_the_trained_networks_frames(ablation: Ablation, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = small(ablation).eval()
    exported = export_bundle(network, tmp_path / "bundle")
    frames = np.random.default_rng(0).random((4, 12, 16, 3), np.float32)
    with Runtime(exported.bundle.path) as runtime:
        restored = runtime(frames)
    with torch.no_grad():
        expected = network(torch.from_numpy(frames).permute(0, 3, 1, 2)[None])[0].permute(0, 2, 3, 1)
    np.testing.assert_allclose(restored, expected.numpy(), atol=1e-4)
