"""A backend that measures another."""

import time
from collections.abc import Mapping
from typing import Any

from zsm.runtime import Backend
from zsm.runtime.backend import Tensor


class TimedBackend:
    """Does what another backend does, and adds up the seconds that each stage takes."""

    def __init__(self, inner: Backend, spent: dict[str, float]) -> None:
        self._inner = inner
        self._spent = spent

    def run(self, stage: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Execute a stage, and measure it."""
        begin = time.perf_counter()
        outputs = self._inner.run(stage, inputs)
        self._spent[stage] = self._spent.get(stage, 0.0) + time.perf_counter() - begin
        return outputs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
