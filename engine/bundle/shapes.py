"""Frame sizes, ranges of sizes that engines are built for, and the shapes of a stage's tensors at a size."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

from zsm.engine.bundle.manifest import OUTPUT_SIZE, Manifest, TensorSpec
from zsm.errors import SizeError
from zsm.runtime import GRID, SCALE

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Size:
    """A frame's width and height in pixels."""

    width: int
    height: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a text such as `480x270`. Raises SizeError."""
        match = re.fullmatch(r"(\d{1,7})[xX](\d{1,7})", text.strip())
        if not match or not (int(match[1]) and int(match[2])):
            raise SizeError(f"invalid size {text!r}; write WxH with at most 7 digits each, as in 480x270")
        return cls(int(match[1]), int(match[2]))

    @property
    def pixels(self) -> int:
        return self.width * self.height

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, kw_only=True)
class SizeRange:
    """LR sizes from `min` to `max`, optimised for `opt`. Raises SizeError unless they are in ascending order."""

    min: Size
    opt: Size
    max: Size

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            low, middle, high = (getattr(size, name) for size in (self.min, self.opt, self.max))
            if not low <= middle <= high:
                raise SizeError(f"min, opt and max must ascend, but the {name}s are {low}, {middle}, {high}")

    @classmethod
    def only(cls, size: Size) -> Self:
        return cls(min=size, opt=size, max=size)

    @classmethod
    def from_dict(cls, texts: Mapping[str, str]) -> Self:
        """Make a range from `{"min": "64x64", ...}`, which is what `to_dict` returns."""
        return cls(**{name: Size.parse(text) for name, text in texts.items()})

    def to_dict(self) -> dict[str, str]:
        return {"min": str(self.min), "opt": str(self.opt), "max": str(self.max)}

    def __contains__(self, size: Size) -> bool:
        return self.min.width <= size.width <= self.max.width and self.min.height <= size.height <= self.max.height

    def __str__(self) -> str:
        return str(self.opt) if self.min == self.max else f"{self.min} to {self.max}, best {self.opt}"


def batch(manifest: Manifest, stage: str) -> int:
    """Frames per call of a stage: the recurrence runs its directions as one batch."""
    return max(1, manifest.network.directions) if stage == "propagate" else 1


def input_shapes(manifest: Manifest, stage: str, size: Size) -> dict[str, Shape]:
    """The shapes of a stage's inputs at an LR size. For `OUTPUT_SIZE` the value, as TensorRT's profiles want it."""
    known = symbols(size, batch(manifest, stage))
    return {
        tensor.name: (SCALE * size.height, SCALE * size.width)
        if tensor.name == OUTPUT_SIZE
        else shape_of(tensor, known)
        for tensor in manifest.stages[stage].inputs
    }


def output_shapes(manifest: Manifest, stage: str, size: Size) -> dict[str, Shape]:
    """The shapes of a stage's outputs at an LR size."""
    known = symbols(size, batch(manifest, stage))
    return {tensor.name: shape_of(tensor, known) for tensor in manifest.stages[stage].outputs}


def shape_of(tensor: TensorSpec, symbols: Mapping[str, int]) -> Shape:
    """A tensor's shape, given the values of the symbols `n`, `h`, `w`, `H` and `W`."""
    return tuple(_dimension(extent, symbols) for extent in tensor.shape)


def symbols(size: Size, n: int) -> dict[str, int]:
    """The values of the manifest's symbols for `n` frames of an LR size."""
    height, width = (-(-extent // GRID) * GRID for extent in (size.height, size.width))
    return {"n": n, "h": size.height, "w": size.width, "H": height, "W": width}


def _dimension(extent: int | str, symbols: Mapping[str, int]) -> int:
    if isinstance(extent, int):
        return extent
    match = re.fullmatch(r"(\d*)([a-zA-Z])(?:/(\d+))?(?:\+(\d+))?", extent)
    if not match or match[2] not in symbols:
        raise SizeError(f"the bundle has an unknown dimension {extent!r}; upgrade zsm")
    value = Fraction(int(match[1] or 1) * symbols[match[2]], int(match[3] or 1))
    assert value.denominator == 1
    return int(value) + int(match[4] or 0)
