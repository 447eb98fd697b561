"""How the segments of a run become the finished file: with the source's other streams, times and time code."""

from fractions import Fraction
from pathlib import Path

from zsm.errors import VideoError
from zsm.runtime.video import encoders, mux, passengers, spool, timecode
from zsm.runtime.video import timestamps as timing
from zsm.runtime.video.location import Location
from zsm.runtime.video.options import Options
from zsm.runtime.video.passengers import Passengers
from zsm.runtime.video.sinks import Timeline
from zsm.runtime.video.source import Source
from zsm.runtime.video.videofile import VideoSource


class Assembly:
    """Plans the finished file before the first frame is read, and writes it after the last.

    `folder` is for a pipe's other streams, which have to be kept until then. Notes are added to `notes`.
    """

    def __init__(
        self, source: Source, options: Options, plan: encoders.Plan, suffix: str, folder: Path, notes: list[str]
    ) -> None:
        self._source = source
        self._options = options
        self._plan = plan
        self._muxer = encoders.MUXERS[suffix]
        self._stretch = timing.stretch(options.fps_mode)
        self._notes = notes
        self._passengers: Passengers | None = None
        self._spool: spool.Spool | None = None
        if isinstance(source, VideoSource):
            if source.info.location is None:
                self._spool = self._keep_others(source, folder / "others.mkv")
            else:
                self._passengers = self._planned(source.info.location, source.info.stream)

    def __call__(self, segments: list[Path], target: Path, delay: int, timeline: Timeline) -> None:
        """Write the finished file; raises VideoError."""
        picture = mux.Picture(timeline=timeline, delay=delay, aspect=self._plan.aspect, timecode=self._timecode())
        mux.assemble(segments, target, picture, self._others(timeline))

    def _keep_others(self, source: VideoSource, path: Path) -> spool.Spool | None:
        try:
            return source.keep_others(path)
        except VideoError as error:
            self._notes.append(f"{error}; left out: {', '.join(source.others())}")
            return None

    def _planned(self, location: Location, video: int) -> Passengers:
        planned, notes = passengers.plan(location, video, self._muxer, self._stretch)
        self._notes += notes
        return planned

    def _others(self, timeline: Timeline) -> mux.Others | None:
        excerpt = self._options.excerpt
        zero, planned, offsets = excerpt.zero(self._source), self._passengers, [Fraction(0)]
        if self._spool is not None:
            self._spool.close()
            self._notes += self._spool.notes
            zero, planned = zero + spool.LEAD, self._planned(self._spool.path, spool.VIDEO)
        elif isinstance(self._source, VideoSource):
            offsets = self._source.clock.offsets
        if planned is None:
            return None
        course = mux.Course(
            zero=zero, offsets=offsets, begins=excerpt.shifts, end=self._end(timeline), stretch=self._stretch
        )
        return mux.Others(passengers=planned, course=course, notes=self._notes)

    def _end(self, timeline: Timeline) -> Fraction | None:
        """The time in the output, in seconds, at which an excerpt ends; None if it runs to the source's end."""
        if self._options.excerpt.end is None and self._options.excerpt.frames is None:
            return None
        return (timeline.times[-1] + timeline.last_duration) * timeline.time_base

    def _timecode(self) -> str | None:
        """The time code of the output's first frame."""
        given = self._source.timecode if isinstance(self._source, VideoSource) else None
        if given is None:
            return None
        rate = self._source.info.rate
        moved = timecode.move(given, rate, self._options.excerpt.start, self._plan.rate)
        if moved is None:
            self._notes.append(f"the time code {given!r} is left out: it doesn't fit {float(rate):g} frames per second")
        return moved
