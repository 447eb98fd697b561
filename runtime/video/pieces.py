"""Segments as tasks of their own, which may be done anywhere that the source can be read."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Protocol

from zsm.errors import VideoError
from zsm.runtime.video import pipeline
from zsm.runtime.video import timestamps as timing
from zsm.runtime.video.colour import Codes
from zsm.runtime.video.encoders import Plan
from zsm.runtime.video.options import Cuts, Options, Restorer, Settings
from zsm.runtime.video.reader import Reader
from zsm.runtime.video.resume import Segment
from zsm.runtime.video.sinks import SegmentWriter
from zsm.runtime.video.source import Entry, Source
from zsm.runtime.windows import needed, restart


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A segment of the output, and what restoring it takes."""

    number: int
    entry: Entry
    """The frames to read."""
    cuts: tuple[int, ...]
    """Those of them that begin a scene, counted from the first."""
    first: int
    """The first output to be written, of those that the frames give."""
    every: int
    """Every how many outputs one is written."""
    outputs: int
    """How many are written."""


class Crew(Protocol):
    """Restores pieces somewhere else."""

    def __call__(
        self, plan: Plan, pieces: Iterator[Piece | None], deliver: Callable[[int, Segment, bytes], None]
    ) -> None:
        """Restore all pieces, and deliver each segment's number, description and file.

        `pieces` yields None while the next one isn't known yet, so that what is finished can be delivered meanwhile.
        Returns early if it was asked to stop.
        """
        ...


def pieces(reader: Reader, options: Options, settings: Settings, done: Collection[int]) -> Iterator[Piece | None]:
    """Yield each segment that isn't done, as soon as the scan has seen enough; None after each frame seen."""
    numbers = (number for number in count() if number not in done)
    number = next(numbers)
    for _ in reader.scan_on():
        yield None
        while (piece := _piece(reader, options, settings, number)) is not None:
            yield piece
            number = next(numbers)


def _piece(reader: Reader, options: Options, settings: Settings, number: int) -> Piece | None:
    """A segment by its number; None if there is no such segment, or if it isn't known yet."""
    every, window = options.every, settings.window
    begin, end = number * options.segment, (number + 1) * options.segment
    if reader.total is not None:
        end = min(end, timing.frames_out(reader.total, options.fps_mode))
    last = needed(end * every, window)
    if reader.total is not None:
        last = min(last, reader.total)
    if begin >= end or last > reader.seen:
        return None
    first = restart(begin * every, reader.cuts, window, settings.overlap)
    return Piece(
        number=number,
        entry=reader.entry(first, last),
        cuts=tuple(cut - first for cut in reader.cuts if first < cut < last),
        first=begin * every - 2 * first,
        every=every,
        outputs=end - begin,
    )


def render(source: Source, piece: Piece, restorer: Restorer, plan: Plan, path: Path) -> Segment:
    """Restore a piece to a file; raises VideoError if a frame is decoded differently than in the scan."""
    writer = SegmentWriter(path.with_suffix(".part"), plan)
    try:
        pipeline.run(
            (frame.pixels() for frame in source.enter(piece.entry)),
            partial(outputs, restorer, cuts=piece.cuts, first=piece.first, every=piece.every, most=piece.outputs),
            writer.write,
            pipeline.Meter(),
        )
        if writer.frames != piece.outputs:
            raise VideoError(f"segment {piece.number} has {writer.frames} frames instead of {piece.outputs}")
        segment = writer.close(path)
        segment.builds = dict(restorer.builds)
        return segment
    except BaseException:
        writer.abandon()
        raise


def outputs(
    restorer: Restorer, frames: Iterator[Codes], *, cuts: Cuts, first: int, every: int, most: int | None
) -> Iterable[Codes]:
    """Restore at most so many outputs, but take all frames: whoever reads them waits for that."""
    yield from islice(restorer.stream(frames, cuts=cuts, first=first, every=every), most)
    for _ in frames:
        pass
