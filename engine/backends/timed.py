"""A backend that measures another one's stages."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from zsm.runtime import Backend, Pixels, Session
from zsm.runtime.backend import DevicePixels, Tensor

Result = TypeVar("Result")


@dataclass
class StageTime:
    """The number of a stage's calls, and the seconds they took in total."""

    calls: int = 0
    seconds: float = 0.0


class TimedBackend:
    """A backend whose sessions wait for each stage, and add up its time in `times`."""

    def __init__(self, inner: Backend, times: dict[str, StageTime]) -> None:
        self._inner = inner
        self._times = times

    def open(self, height: int, width: int) -> "TimedSession":
        return TimedSession(self._inner.open(height, width), self._times)

    def adopt(self, frame: object) -> DevicePixels | None:
        return self._inner.adopt(frame)

    def free_memory(self) -> int:
        return self._inner.free_memory()

    def describe(self) -> dict[str, Any]:
        return self._inner.describe()

    def close(self) -> None:
        self._inner.close()


class TimedSession:
    """A session whose stages are measured."""

    def __init__(self, inner: Session, times: dict[str, StageTime]) -> None:
        self._inner = inner
        self._times = times

    @property
    def batched(self) -> bool:
        return self._inner.batched

    def ingest(self, frame: Pixels | DevicePixels) -> Tensor:
        return self._measured(f"ingest_{frame.dtype.name}", lambda: self._inner.ingest(frame))

    def run(self, stage: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._measured(stage, lambda: self._inner.run(stage, inputs))

    def emit(self, planes: Tensor, dtype: np.dtype[Any]) -> Tensor:
        return self._measured(f"emit_{dtype.name}", lambda: self._inner.emit(planes, dtype))

    def _measured(self, stage: str, work: Callable[[], Result]) -> Result:
        begin = time.perf_counter()
        result = work()
        self._inner.synchronize()
        taken = self._times.setdefault(stage, StageTime())
        taken.calls += 1
        taken.seconds += time.perf_counter() - begin
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
