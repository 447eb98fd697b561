"""The network cut into stages: which module each one is, and its inputs and outputs by name.

`ingest` and `emit`, which hold no weights, are in `pixels.py`.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from zsm.export.model import Network


@dataclass(frozen=True, kw_only=True)
class Plane:
    """A tensor (n, channels, H*scale, W*scale), H and W being the LR planes' size."""

    channels: int
    scale: float = 1


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the network that becomes one graph."""

    name: str
    module: nn.Module
    inputs: dict[str, Plane]
    outputs: dict[str, Plane]


class _Flat(nn.Module):
    """A module called with all its tensors in a row, as a graph is."""

    def __init__(self, module: nn.Module, first: int | None = None) -> None:
        """With `first`, the module takes two groups of tensors; the first group has that many."""
        super().__init__()
        self.module = module
        self.first = first

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        if self.first is None:
            return self.module(*tensors)
        return self.module(tensors[: self.first], tensors[self.first :])


def stages(network: Network) -> list[Stage]:
    """The stages that this network has, in the order of their use."""
    config = network.config
    width = config.width
    feature = Plane(channels=width)
    scales = (1, 1 / 2, 1 / 4) if config.interpolation == "deformable" else (1,)
    levels = {f"level{i}": Plane(channels=width, scale=scale) for i, scale in enumerate(scales, start=1)}
    found = [
        Stage(
            name="extract",
            module=_Flat(network.extraction),
            inputs={"planes": Plane(channels=3)},
            outputs=levels,
        ),
        Stage(
            name="interpolate",
            module=_Flat(network.interpolation, first=len(levels)),
            inputs={f"{side}_{name}": plane for side in ("previous", "next") for name, plane in levels.items()},
            outputs={"feature": feature},
        ),
    ]
    if network.recurrence is not None:
        found.append(
            Stage(
                name="propagate",
                module=_Flat(network.recurrence),
                inputs=dict.fromkeys(("feature", "hidden", "cell"), feature),
                outputs=dict.fromkeys(("next_hidden", "next_cell"), feature),
            )
        )
    hidden = ("forward", "backward")[: max(1, config.directions)]
    neighbours = ("base_previous", "base_next") if config.base == "bicubic" else ()
    found.append(
        Stage(
            name="reconstruct",
            module=_Flat(network.reconstruction, first=len(hidden)),
            inputs=dict.fromkeys(hidden, feature) | dict.fromkeys(neighbours, Plane(channels=3)),
            outputs={"planes": Plane(channels=3, scale=4)},
        )
    )
    return found
