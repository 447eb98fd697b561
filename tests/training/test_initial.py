from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.training.moving import gliding

from zsm.errors import DataError
from zsm.evaluation import bicubic
from zsm.evaluation.baseline import enlarge_and_average
from zsm.export.model import Network, NetworkConfig, checkpoint
from zsm.training import initial
from zsm.training.config import Start
from zsm.training.data import to_tensor

DEFORMABLE = NetworkConfig(width=8, extraction_blocks=1, reconstruction_blocks=1, deformable_groups=2, base="bicubic")
PLAIN = replace(DEFORMABLE, recurrence="plain")


@torch.no_grad()
def test_training_starts_at_the_baseline() -> None:
    torch.manual_seed(0)
    network = initial.network(DEFORMABLE, Start(base=True))
    lr = bicubic.resize(gliding(4, 64, 80), 0.25)
    pixels = network(to_tensor(lr)[None])[0].clamp(0, 1).mul(255).round().permute(0, 2, 3, 1).numpy()
    inside = np.s_[:, 8:-8, 8:-8]  # outside the border MATLAB mirrors pixels, and the network repeats them
    np.testing.assert_allclose(pixels[inside], enlarge_and_average(lr)[inside], atol=1)


@torch.no_grad()
def test_a_deformable_recurrence_at_the_identity_gives_the_outputs_of_the_plain_one(tmp_path: Path) -> None:
    torch.manual_seed(1)
    plain = initial.network(PLAIN, Start(identity=True))
    checkpoint.save(plain, tmp_path / "plain.safetensors")
    start = Start(weights=tmp_path / "plain.safetensors", identity=True)
    deformable = initial.network(DEFORMABLE, start)
    frames = torch.rand(2, 4, 3, 16, 20)
    torch.testing.assert_close(deformable(frames), plain(frames), atol=1e-5, rtol=0)
    untouched = initial.network(DEFORMABLE, Start(weights=tmp_path / "plain.safetensors"))
    assert (untouched(frames) - plain(frames)).abs().max() > 1e-3


@torch.no_grad()
def test_a_refined_recurrence_at_the_identity_gives_the_outputs_of_the_plain_one(tmp_path: Path) -> None:
    torch.manual_seed(3)
    plain = initial.network(PLAIN, Start())
    checkpoint.save(plain, tmp_path / "plain.safetensors")
    start = Start(weights=tmp_path / "plain.safetensors", identity=True)
    refined = initial.network(replace(PLAIN, recurrence_blocks=2), start)
    frames = torch.rand(2, 4, 3, 16, 20)
    torch.testing.assert_close(refined(frames), plain(frames), atol=1e-5, rtol=0)


@torch.no_grad()
def test_interpolation_at_the_identity_averages_its_neighbours() -> None:
    torch.manual_seed(2)
    network = initial.network(PLAIN, Start(identity=True))
    features = network.features(torch.rand(1, 2, 3, 8, 12))[0]
    torch.testing.assert_close(features[1], (features[0] + features[2]) / 2, atol=1e-5, rtol=0)


def test_weights_of_another_shape_are_rejected(tmp_path: Path) -> None:
    checkpoint.save(Network(replace(PLAIN, width=4)), tmp_path / "narrow.safetensors")
    with pytest.raises(DataError, match=r"narrow\.safetensors.*shape"):
        initial.network(PLAIN, Start(weights=tmp_path / "narrow.safetensors"))
