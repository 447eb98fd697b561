"""Footage to train on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.training.moving import gliding, write_clip


@pytest.fixture(scope="session")
def footage_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three moving clips of ten frames, 80x64."""
    root = tmp_path_factory.mktemp("clips")
    for number in range(3):
        write_clip(root / f"clip{number}", gliding(10, 64, 80, seed=number))
    return root


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep these small networks in one thread, which is faster for them than several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
