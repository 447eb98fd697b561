"""Sizes as people write them: always width x height."""

import re
from dataclasses import dataclass
from typing import Self

from zsm.errors import Error


class SizeError(Error):
    """A size that can't be read."""


@dataclass(frozen=True)
class Size:
    """A frame's width and height in pixels."""

    width: int
    height: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `480x270`."""
        match = re.fullmatch(r"(\d+)[xX](\d+)", text.strip())
        if not match or not (int(match[1]) and int(match[2])):
            raise SizeError(f"{text!r} is no size; write WIDTHxHEIGHT, as in 480x270")
        return cls(int(match[1]), int(match[2]))

    @property
    def pixels(self) -> int:
        """Pixels of a frame."""
        return self.width * self.height

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"
