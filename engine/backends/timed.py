"""A backend that measures another."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zsm.runtime import Backend
from zsm.runtime.backend import Compute, Tensor


@dataclass
class StageTime:
    """How often a stage was called, and how long that took in all."""

    calls: int = 0
    seconds: float = 0.0


class TimedBackend:
    """Does what another backend does, and adds up what each stage takes."""

    def __init__(self, inner: Backend, times: dict[str, StageTime]) -> None:
        self._inner = inner
        self._times = times

    def run(self, stage: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Execute a stage, and measure it."""
        begin = time.perf_counter()
        outputs = self._inner.run(stage, inputs)
        self._inner.synchronize()
        taken = self._times.setdefault(stage, StageTime())
        taken.calls += 1
        taken.seconds += time.perf_counter() - begin
        return outputs

    def repeat(self, name: str, compute: Compute, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Compute stage by stage: what is recorded as a whole can't be measured in parts."""
        return compute(tensors)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
