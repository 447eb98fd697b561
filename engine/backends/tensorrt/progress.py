"""How far a build is: TensorRT tells of phases within phases, people want one number and a time."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a build stands."""

    stage: str
    phase: str
    fraction: float
    """Of the entire build, from 0 to 1; it never falls."""
    elapsed: float
    """Seconds."""
    remaining: float | None
    """Seconds, estimated; None when it is too early to tell."""


Listener = Callable[[Progress], None]


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """Adds up the stages of a build, and the phases of each, which may come from several threads."""

    def __init__(
        self, weights: dict[str, float], listener: Listener, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`weights` say how long each stage takes beside the others."""
        self._weights = weights
        self._listener = listener
        self._clock = clock
        self._begin = clock()
        self._lock = threading.Lock()
        self._stage = ""
        self._before = 0.0
        self._fraction = 0.0
        self._phases: dict[str, _Phase] = {}

    def stage(self, name: str) -> None:
        """The next stage begins; the one before it is finished."""
        with self._lock:
            self._finish_stage()
            self._stage = name
            self._tell("")

    def finish(self) -> None:
        """Everything is finished."""
        with self._lock:
            self._finish_stage()
            self._tell("")

    def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps begins, within a step of its parent."""
        with self._lock:
            self._phases[phase] = _Phase(parent, max(1, steps))
            self._tell(phase)

    def step_complete(self, phase: str, step: int) -> None:
        """A step, counted from 0, is done."""
        with self._lock:
            if phase in self._phases:
                self._phases[phase].done = step + 1
            self._tell(phase)

    def phase_finish(self, phase: str) -> None:
        """A phase is over, with all its steps or without."""
        with self._lock:
            self._phases.pop(phase, None)
            self._tell(phase)

    def _finish_stage(self) -> None:
        self._before += self._weights.get(self._stage, 0.0)
        self._stage = ""
        self._phases.clear()

    def _within(self, parent: str | None) -> float:
        """How much of a phase's step at hand its own phases have done, the furthest counting."""
        inner = [
            (phase.done + self._within(name)) / phase.steps
            for name, phase in self._phases.items()
            if phase.parent == parent and phase.done < phase.steps
        ]
        return min(1.0, max(inner, default=0.0))

    def _tell(self, phase: str) -> None:
        done = self._before + self._weights.get(self._stage, 0.0) * self._within(None)
        self._fraction = max(self._fraction, min(1.0, done / sum(self._weights.values())))
        elapsed = self._clock() - self._begin
        remaining = elapsed * (1 - self._fraction) / self._fraction if self._fraction > 0.02 else None
        self._listener(
            Progress(stage=self._stage, phase=phase, fraction=self._fraction, elapsed=elapsed, remaining=remaining)
        )
