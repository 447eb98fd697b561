"""The network's configuration: what makes one network differ from another, without torch."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

from zsm.errors import ArgumentError

Base = Literal["none", "bicubic"]
Interpolation = Literal["deformable", "naive"]
Recurrence = Literal["deformable", "plain", "none"]


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """One network. The defaults are the released one (paper, section 3.6).

    The last three fields turn modules off, for the paper's ablations (table 5) and for compact networks.
    """

    width: int = 64
    """Channels of every feature."""
    extraction_blocks: int = 5
    """Residual blocks of the feature extraction (k1)."""
    reconstruction_blocks: int = 40
    """Residual blocks of the reconstruction (k2)."""
    deformable_groups: int = 8
    """Groups of channels that share sampling positions."""
    base: Base = "none"
    """`bicubic` adds the enlarged input (for a missing frame, its neighbours' mean) to the output."""
    interpolation: Interpolation = "deformable"
    """How a missing frame's feature is made: sampled along motion (eq. 3), or only blended."""
    recurrence: Recurrence = "deformable"
    """ConvLSTM with aligned states (eq. 6), without alignment (eq. 5), or no recurrence."""
    bidirectional: bool = True
    """Whether the recurrence also runs over the reversed sequence."""

    def __post_init__(self) -> None:
        for name, least in (
            ("width", 1),
            ("extraction_blocks", 0),
            ("reconstruction_blocks", 0),
            ("deformable_groups", 1),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ArgumentError(f"network {name} is {value!r}; give an integer of at least {least}")
        if not isinstance(self.bidirectional, bool):
            raise ArgumentError(f"network bidirectional is {self.bidirectional!r}; choose true or false")
        for name, choices in (("base", Base), ("interpolation", Interpolation), ("recurrence", Recurrence)):
            value = getattr(self, name)
            if value not in get_args(choices):
                raise ArgumentError(f"network {name} is {value!r}; choose from {', '.join(get_args(choices))}")
        if self.width % self.deformable_groups:
            raise ArgumentError(
                f"network width {self.width} can't be divided into {self.deformable_groups} deformable groups"
            )

    @property
    def directions(self) -> int:
        """Sequences of hidden states that reach the reconstruction: 2, 1, or 0 without a recurrence."""
        return 0 if self.recurrence == "none" else 1 + self.bidirectional

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Make a configuration from plain values, as JSON and TOML have them."""
        if not isinstance(values, dict):
            raise ArgumentError(f"the network is {values!r}; give a table of settings")
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ArgumentError(f"unknown network setting {', '.join(unknown)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)
