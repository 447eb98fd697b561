"""The learning rate, and the length of a run."""

from dataclasses import dataclass
from math import cos, inf, pi

from zsm.errors import ArgumentError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Cosine annealing (section 3.6), after a linear warm-up. Raises ArgumentError for invalid settings."""

    steps: int = 600_000
    """Length of the run."""
    learning_rate: float = 4e-4
    """Reached after the warm-up, and again at each restart."""
    final_learning_rate: float = 1e-7
    warm_up: int = 0
    """Steps over which the rate rises linearly."""
    period: int = 0
    """Steps between warm restarts; 0 for none."""
    minutes: float | None = None
    """Length of the run in training time, instead of `steps`; the rate then follows the time spent.

    How many steps such a run makes depends on the machine, so it can be resumed but not reproduced exactly.
    """

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ArgumentError(f"schedule.steps is {self.steps}; give 1 or more")
        if not 0 <= self.final_learning_rate <= self.learning_rate:
            raise ArgumentError(
                f"schedule.final_learning_rate is {self.final_learning_rate} and learning_rate {self.learning_rate};"
                " give numbers of at least 0, the final one no greater"
            )
        for name in ("warm_up", "period"):
            if getattr(self, name) < 0:
                raise ArgumentError(f"schedule.{name} is {getattr(self, name)}; give 0 or more steps")
        if self.minutes is not None and not 0 < self.minutes < inf:
            raise ArgumentError(f"schedule.minutes is {self.minutes}; give a number above 0")
        if self.minutes is not None and self.period:
            raise ArgumentError("schedule.minutes and schedule.period can't be combined; remove one")

    def progress(self, step: int, seconds: float) -> float:
        """Fraction of the run completed, from 0 to 1, after `step` steps that took `seconds`."""
        done = step / self.steps if self.minutes is None else seconds / (60 * self.minutes)
        return min(done, 1.0)

    def rate(self, step: int, seconds: float) -> float:
        """Learning rate of step `step`, counted from 0, if `seconds` have been spent before it."""
        fraction = (step % self.period) / self.period if self.period else self.progress(step, seconds)
        span = self.learning_rate - self.final_learning_rate
        annealed = self.final_learning_rate + span * (1 + cos(pi * fraction)) / 2
        return annealed * min(1.0, (step + 1) / (self.warm_up + 1))
