"""Tests that need a GPU: without one they are skipped, or fail if ZSM_REQUIRE_GPU=1."""

import os

import pytest

from zsm.engine import BackendError
from zsm.engine.cuda import Gpu


@pytest.fixture
def gpu() -> Gpu:
    try:
        return Gpu(0)
    except BackendError as error:
        if os.environ.get("ZSM_REQUIRE_GPU") == "1":
            pytest.fail(f"ZSM_REQUIRE_GPU=1, but {error}")
        pytest.skip(str(error))
