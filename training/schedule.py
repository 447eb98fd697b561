"""The learning rate, and the length of a run."""

from dataclasses import dataclass
from math import cos, inf, pi

from zsm.errors import ArgumentError

STEPS = 600_000
"""Length of a run that is given neither in steps nor in minutes."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Cosine annealing (section 3.6), after a linear warm-up. Raises ArgumentError for invalid settings."""

    steps: int | None = None
    """Length of the run, 600,000 by default; None in a run of `minutes`."""
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
        if not 0 <= self.final_learning_rate <= self.learning_rate < inf:
            raise ArgumentError(
                f"schedule.final_learning_rate is {self.final_learning_rate} and learning_rate {self.learning_rate};"
                " give finite numbers of at least 0, the final one no greater"
            )
        for name in ("warm_up", "period"):
            if getattr(self, name) < 0:
                raise ArgumentError(f"schedule.{name} is {getattr(self, name)}; give 0 or more steps")
        if self.minutes is None:
            steps = STEPS if self.steps is None else self.steps
            self._check_steps(steps)
            object.__setattr__(self, "steps", steps)
        else:
            self._check_minutes(self.minutes)

    def _check_steps(self, steps: int) -> None:
        if steps < 1:
            raise ArgumentError(f"schedule.steps is {steps}; give 1 or more")
        if self.warm_up >= steps:
            raise ArgumentError(f"schedule.warm_up is {self.warm_up}, but the run has {steps} steps; give fewer")
        if self.period and steps % self.period:
            raise ArgumentError(
                f"schedule.steps is {steps}, but schedule.period {self.period}, so the run would end at a high rate;"
                " give a multiple of the period"
            )

    def _check_minutes(self, minutes: float) -> None:
        if not 0 < minutes < inf:
            raise ArgumentError(f"schedule.minutes is {minutes}; give a number above 0")
        for name, given in (("steps", self.steps is not None), ("period", self.period > 0)):
            if given:
                raise ArgumentError(f"schedule.minutes and schedule.{name} can't be combined; remove one")

    def progress(self, step: int, seconds: float) -> float:
        """Fraction of the run completed, from 0 to 1, after `step` steps that took `seconds`."""
        if self.steps is not None:
            return min(step / self.steps, 1.0)
        assert self.minutes is not None
        return min(seconds / (60 * self.minutes), 1.0)

    def rate(self, step: int, seconds: float) -> float:
        """Learning rate of step `step`, counted from 0, if `seconds` have been spent before it."""
        fraction = (step % self.period) / self.period if self.period else self.progress(step, seconds)
        span = self.learning_rate - self.final_learning_rate
        annealed = self.final_learning_rate + span * (1 + cos(pi * fraction)) / 2
        return annealed * min(1.0, (step + 1) / (self.warm_up + 1))
