"""The network's configuration, without torch."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

from zsm.errors import ArgumentError

Base = Literal["none", "bicubic"]
Interpolation = Literal["deformable", "naive"]
Recurrence = Literal["deformable", "plain", "none"]


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The hyperparameters of one network. The defaults are the released network's (paper, section 3.6).

    The last four fields switch modules off or on, for the paper's ablations (table 5) and for compact networks. Raises
    ArgumentError for an invalid value.
    """

    width: int = 64
    """Channels of every feature map."""
    extraction_blocks: int = 5
    """Residual blocks of the feature extraction (k1)."""
    reconstruction_blocks: int = 40
    """Residual blocks of the reconstruction (k2)."""
    deformable_groups: int = 8
    """Groups of channels that share their sampling positions."""
    base: Base = "none"
    """`bicubic` adds the bicubically enlarged input (for a missing frame, the mean of its neighbours) to the output."""
    interpolation: Interpolation = "deformable"
    """How a missing frame's feature is made: sampled along the motion (eq. 3), or just blended."""
    recurrence: Recurrence = "deformable"
    """ConvLSTM with aligned states (eq. 6), without alignment (eq. 5), or no recurrence."""
    recurrence_blocks: int = 0
    """Residual blocks through which the hidden state goes, together with the current feature, before the gates. Without
    alignment, they are what makes up for motion."""
    bidirectional: bool = True
    """Whether the recurrence also runs backwards through the sequence."""

    def __post_init__(self) -> None:
        for name, least in (
            ("width", 1),
            ("extraction_blocks", 0),
            ("reconstruction_blocks", 0),
            ("deformable_groups", 1),
            ("recurrence_blocks", 0),
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
        if self.recurrence_blocks and self.recurrence == "none":
            raise ArgumentError(
                f"network recurrence_blocks is {self.recurrence_blocks}, but recurrence is 'none'; give 0"
            )
        if self.width % self.deformable_groups:
            raise ArgumentError(
                f"network width {self.width} can't be divided into {self.deformable_groups} deformable groups"
            )

    @property
    def directions(self) -> int:
        """Directions of the recurrence: 2, 1, or 0 without one."""
        return 0 if self.recurrence == "none" else 1 + self.bidirectional

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Make a configuration from JSON or TOML values. Raises ArgumentError for an unknown or invalid setting."""
        if not isinstance(values, dict):
            raise ArgumentError(f"the network is {values!r}; give a table of settings")
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ArgumentError(f"unknown network setting {', '.join(unknown)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
