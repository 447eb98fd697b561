"""How a video is restored, and by what."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av

from zsm.errors import ArgumentError
from zsm.runtime.video import cuts as scenes
from zsm.runtime.video import timestamps as timing
from zsm.runtime.video.colour import Codes
from zsm.runtime.video.encoders import LARGEST_TERM, Encoding
from zsm.runtime.video.excerpt import Excerpt
from zsm.runtime.video.source import DEFAULT_RATE, Info
from zsm.runtime.video.timestamps import FpsMode

Cuts = Collection[int] | Callable[[Codes, Codes], bool] | None


class Settings(Protocol):
    """What a result depends on besides the source and the options."""

    @property
    def scale(self) -> int:
        """Enlargement of height and width."""
        ...

    @property
    def window(self) -> int:
        """Input frames processed together."""
        ...

    @property
    def overlap(self) -> int:
        """Input frames that neighbouring windows share."""
        ...

    @property
    def identity(self) -> str:
        """Identifies the network and its precision; an interrupted run is resumed only with the same."""
        ...

    @property
    def room(self) -> int | None:
        """The bytes of the host's memory that are free for a run; None if that isn't known."""
        ...

    def tile(self, width: int, height: int, itemsize: int, *, besides: int = 0) -> str | None:
        """The tiles for frames of a size, with numbers of `itemsize` bytes; None if they are processed whole.

        `besides`: the bytes of memory that everything else takes.
        """
        ...


class Restorer(Settings, Protocol):
    """The part of `zsm.Runtime` that restoring a video needs."""

    @property
    def builds(self) -> Mapping[str, str]:
        """The checksums of engines, by what they are for, once frames have come; empty if nothing is compiled."""
        ...

    def stream(self, frames: Iterable[Codes], *, cuts: Cuts = None, first: int = 0, every: int = 1) -> Iterator[Codes]:
        """Turn N frames (h,w,3) into 2N-1 (scale*h,scale*w,3), and yield number first, first + every, ..."""
        ...


SLOWEST_RATE = Fraction(1, 1000)
"""The lowest frame rate of a folder of images, in frames per second; MP4 can't show a frame for longer."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a video is restored. Raises ArgumentError for invalid values."""

    fps_mode: FpsMode = "double"
    encoding: Encoding = field(default_factory=Encoding)
    excerpt: Excerpt = field(default_factory=Excerpt)
    cuts: str = "auto"
    """`auto`, `off`, or the path of a file with frame numbers."""
    rate: Fraction | None = None
    """Frames per second of a folder of images; 25 if None. Nothing else takes one."""
    segment: int = 120
    """Output frames per segment; a run is resumed at the beginning of a segment."""
    resume: bool = False
    overwrite: bool = False
    check_space: bool = True

    def __post_init__(self) -> None:
        timing.check_mode(self.fps_mode)
        if self.segment < 1:
            raise ArgumentError(f"a segment must have at least 1 frame, got {self.segment}")
        rate = DEFAULT_RATE if self.rate is None else self.rate
        if rate < SLOWEST_RATE or max(rate.as_integer_ratio()) > LARGEST_TERM:
            raise ArgumentError(f"a frame rate of {self.rate} can't be written; give one like 25 or 30000/1001")

    @property
    def every(self) -> int:
        """Every how many of the network's outputs one is written."""
        return 2 if self.fps_mode == "keep" else 1

    def given_cuts(self) -> list[int] | None:
        """The frames that begin a scene, or None if cuts are to be detected; raises VideoError for a bad file."""
        if self.cuts == "auto":
            return None
        return [] if self.cuts == "off" else scenes.read_file(Path(self.cuts))

    def frames_expected(self, info: Info) -> int | None:
        """Estimate how many frames will be written; None if the source doesn't announce its length."""
        frames = self.excerpt.frames_expected(info)
        return None if frames is None else timing.frames_out(frames, self.fps_mode)

    def check_rate(self, info: Info) -> None:
        """Raise ArgumentError if a frame rate is given for a source that has its own."""
        if self.rate is not None and not (isinstance(info.location, Path) and info.location.is_dir()):
            raise ArgumentError(f"{info.name} has its own frame rate ({info.rate}); --rate is for folders of images")

    def job(self, settings: Settings) -> dict[str, str]:
        """What the result depends on besides the source and the target's kind, in words."""
        names = ("fps_mode", "excerpt")
        return {
            "network": settings.identity,
            "window": str(settings.window),
            "overlap": str(settings.overlap),
            **{name: str(getattr(self, name)) for name in names},
            "encoding": str(replace(self.encoding, lean=False)),
            "cuts": str(self.given_cuts()),
            "version of av": av.__version__,
        }
