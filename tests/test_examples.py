"""The examples run as they are documented."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from tests.needs import cuda_provider, module, torch_cuda

from zsm.engine.backends.gpu.cuda import Gpu

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_embed(bicubic_bundle: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number, level in enumerate((0, 100, 200)):
        cv2.imwrite(str(source / f"{number}.png"), np.full((6, 8, 3), level, np.uint8))
    command = [sys.executable, *map(str, (EXAMPLES / "embed.py", bicubic_bundle, source, tmp_path / "out"))]
    subprocess.run(command, check=True, capture_output=True)
    written = sorted((tmp_path / "out").iterdir())
    frames = [cv2.imread(str(path)) for path in written]
    assert [frame.shape for frame in frames if frame is not None] == [(24, 32, 3)] * 5
    assert [int(np.median(frame)) for frame in frames if frame is not None] == [0, 50, 100, 150, 200]


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["torch", "cupy", "pycuda"])
def test_frames_of_other_libraries(
    library: Literal["torch", "cupy", "pycuda"], gpu: Gpu, bicubic_bundle: Path, tmp_path: Path
) -> None:
    if importlib.util.find_spec("tensorrt") is None:
        cuda_provider()
    if library == "torch":
        torch_cuda()
    else:
        module(library, library, f"pip install {library}")
    for number, level in enumerate((0, 100, 200)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((6, 8, 3), level, np.uint8))
    command = [sys.executable, *map(str, (EXAMPLES / f"gpu_{library}.py", bicubic_bundle, tmp_path))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    means = [float(line.split()[-1]) for line in done.stdout.splitlines()]
    np.testing.assert_allclose(means, [0, 50, 100, 150, 200], atol=1)
