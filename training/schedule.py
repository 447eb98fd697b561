"""The learning rate over a run."""

from dataclasses import dataclass
from math import cos, pi

from zsm.errors import ArgumentError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Cosine annealing (section 3.6), after a linear warm-up.

    steps: length of the run.
    period: steps from one warm restart to the next; 0 is no restart.
    minutes: if given, the length of the run in time instead: it ends when that much has been spent on
        training, and the rate follows the time spent. How far such a run comes depends on the machine, so
        it can be resumed but not repeated exactly.
    """

    steps: int = 600_000
    learning_rate: float = 4e-4
    final_learning_rate: float = 1e-7
    warm_up: int = 0
    period: int = 0
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ArgumentError(f"schedule.steps is {self.steps}; give 1 or more")
        if not 0 <= self.final_learning_rate <= self.learning_rate:
            raise ArgumentError(
                f"schedule.learning_rate falls from {self.learning_rate} to {self.final_learning_rate};"
                " give two numbers of at least 0, the first the greater"
            )
        if min(self.warm_up, self.period) < 0:
            raise ArgumentError("schedule.warm_up and schedule.period count steps; give 0 or more")
        if self.minutes is not None and (self.minutes <= 0 or self.period):
            raise ArgumentError("schedule.minutes must be above 0, and goes without schedule.period")

    def progress(self, step: int, seconds: float) -> float:
        """How much of the run is done, from 0 to 1, before step number `step` and after so much time."""
        done = step / self.steps if self.minutes is None else seconds / (60 * self.minutes)
        return min(done, 1.0)

    def rate(self, step: int, seconds: float) -> float:
        """The learning rate of step number `step`, counted from 0."""
        fraction = (step % self.period) / self.period if self.period else self.progress(step, seconds)
        span = self.learning_rate - self.final_learning_rate
        annealed = self.final_learning_rate + span * (1 + cos(pi * fraction)) / 2
        return annealed * min(1.0, (step + 1) / (self.warm_up + 1))
