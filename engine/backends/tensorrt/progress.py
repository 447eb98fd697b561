"""Progress of a build: one fraction and a remaining time, from TensorRT's nested phases."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a build has come."""

    stage: str
    phase: str
    fraction: float
    """Of the whole build, from 0 to 1; never decreases."""
    elapsed: float
    """Seconds."""
    remaining: float | None
    """Seconds, estimated; None while it is too early to tell."""


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
        """`weights`: each stage's expected share of the time."""
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
        """Begin the next stage; the one before is finished."""
        with self._lock:
            self._finish_stage()
            self._stage = name
            self._tell("")

    def finish(self) -> None:
        """Finish the last stage."""
        with self._lock:
            self._finish_stage()
            self._tell("")

    def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
        """Begin a phase of `steps` steps, within one step of its parent."""
        with self._lock:
            self._phases[phase] = _Phase(parent, max(1, steps))
            self._tell(phase)

    def step_complete(self, phase: str, step: int) -> None:
        """Finish a step, counted from 0."""
        with self._lock:
            if phase in self._phases:
                self._phases[phase].done = step + 1
            self._tell(phase)

    def phase_finish(self, phase: str) -> None:
        """End a phase, whether or not all its steps are done."""
        with self._lock:
            self._phases.pop(phase, None)
            self._tell(phase)

    def _finish_stage(self) -> None:
        self._before += self._weights.get(self._stage, 0.0)
        self._stage = ""
        self._phases.clear()

    def _within(self, parent: str | None) -> float:
        """The part of a phase's current step that its inner phases have done; the furthest one counts."""
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
