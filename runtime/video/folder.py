"""A folder of images as a source of frames."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from zsm.errors import VideoError
from zsm.runtime.video import colour as colours
from zsm.runtime.video import images
from zsm.runtime.video.colour import Codes, Colour
from zsm.runtime.video.source import ALPHA_DROPPED, DEFAULT_RATE, Entry, Info, Seen, SourceFrame, check_size


@dataclass(frozen=True)
class _Still:
    time: int
    path: Path
    source: "FolderSource"
    duration: int = 1
    key: bool = True

    @property
    def stamp(self) -> int:
        return self.time

    def digest(self) -> int:
        return 0  # names, sizes and times tell images apart

    def pixels(self) -> Codes:
        data = images.load(self.path)
        pixels = images.decode(self.path, data)
        self.source.transparent = self.source.transparent or images.is_transparent(self.path, data)
        if pixels.shape[1::-1] != self.source.info.size:
            width, height = self.source.info.size
            raise VideoError(
                f"{self.path} is {pixels.shape[1]}x{pixels.shape[0]}, but the images before it are {width}x{height}; "
                "all must have the same size"
            )
        if pixels.dtype != self.source.info.colour.dtype:
            raise VideoError(
                f"{self.path} is {pixels.dtype}, but the images before it aren't; all must have the same depth"
            )
        return pixels


class FolderSource:
    """The images of a folder, in natural order, at a constant rate."""

    def __init__(self, folder: Path, *, rate: Fraction = DEFAULT_RATE) -> None:
        self._paths = images.find(folder)
        self.transparent = False
        """Whether an image read so far isn't opaque."""
        pixels = images.read(self._paths[0])
        colour = Colour(
            matrix=colours.RGB,
            full_range=True,
            primaries=colours.BT709,
            transfer=colours.SRGB,
            bits=8 if pixels.dtype == np.uint8 else 16,
        )
        self.info = Info(
            name=str(folder),
            location=folder,
            size=check_size((pixels.shape[1], pixels.shape[0]), str(self._paths[0])),
            colour=colour,
            pixel_format="rgb24" if colour.bits == 8 else "rgb48le",
            time_base=1 / rate,
            rate=rate,
            frames=len(self._paths),
        )

    def frames(self) -> Iterator[SourceFrame]:
        """Yield the images; their times are their places in the folder."""
        return self._from(0)

    def enter(self, entry: Entry) -> Iterator[SourceFrame]:
        """Yield some of the images again."""
        return islice(self._from(entry.first), len(entry.frames))

    def recall(self, frames: Sequence[Seen]) -> None:
        """Do nothing: an image's place tells all."""

    def notes(self) -> list[str]:
        """Report ignored alpha; damaged images are errors."""
        return [ALPHA_DROPPED] if self.transparent else []

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _from(self, first: int) -> Iterator[SourceFrame]:
        for time in range(first, len(self._paths)):
            yield _Still(time, self._paths[time], self)
