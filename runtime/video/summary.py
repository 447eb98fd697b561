"""What a run reports: while it lasts, and at its end."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come."""

    frame: int
    """Output frames written, including those of the interrupted run that is being resumed."""
    frames: int | None
    """The number expected, if the source announces its length."""
    frames_per_second: float
    eta: float | None
    """Seconds left."""
    bottleneck: str
    """`decode`, `compute` or `encode`: the part that the others wait for."""


Listener = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The result of a run. Sizes are (width, height)."""

    input: str
    output: str
    frames_in: int
    frames_out: int
    size_in: tuple[int, int]
    size_out: tuple[int, int]
    cuts: list[int]
    resumed_at: int
    """Output frames that an interrupted run had finished."""
    seconds: float
    frames_per_second: float
    bottleneck: str
    busy_seconds: Mapping[str, float]
    notes: list[str] = field(default_factory=list)
    """Damage tolerated, streams left out or converted, and the like: one sentence each."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values."""
        return asdict(self)
