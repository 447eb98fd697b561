"""Audio that has to be converted."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.error import FFmpegError

ENCODERS = {"webm": "libopus"}
"""The codec that audio is converted to, by container; AAC elsewhere."""
OPUS_RATE = 48000
LOWEST_RATE = 32000
"""AAC's delay of 1024 samples would be long at telephone rates."""
BIT_RATE = 96000
"""Bits per second and channel."""
LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
"""The usual layout, by number of channels."""
TOLERANCE = Fraction(2, 1000)
"""Seconds. Containers that count in milliseconds are off by up to one; half a frame at 120 per second is 4."""
LONGEST_GAP = 24 * 3600
"""Seconds. A clock that jumps further, or back by more than `LONGEST_OVERLAP`, is not believed."""
LONGEST_OVERLAP = 1
TEMPO_WINDOWS = 24
"""Per second: the windows in which FFmpeg's atempo moves sound, rounded up to a power of 2 in samples."""


@dataclass(frozen=True, kw_only=True)
class AudioForm:
    """What audio is converted to."""

    codec: str
    rate: int
    layout: str


def choose_form(frame: Any, muxer: str) -> AudioForm:
    """Choose the form closest to a decoded frame that the encoder takes; raises ValueError if there is none."""
    name = ENCODERS.get(muxer, "aac")
    codec: Any = av.Codec(name, "w")
    rates = [OPUS_RATE] if name == "libopus" else sorted(codec.audio_rates or [frame.sample_rate])
    rate = next((rate for rate in rates if rate >= max(frame.sample_rate, LOWEST_RATE)), rates[-1])
    context: Any
    for layout in _layouts(frame.layout):
        form = AudioForm(codec=name, rate=rate, layout=layout)
        try:
            context = av.CodecContext.create(name, "w")
            context.format = context.codec.audio_formats[0]
            context.layout, context.sample_rate = layout, rate
            context.open()
        except (FFmpegError, ValueError):
            continue
        return form
    raise ValueError(f"{name} can't encode {frame.layout.name} at {frame.sample_rate} Hz")


def _layouts(layout: Any) -> Iterator[str]:
    """Layouts to try, from the closest to the most widely supported."""
    if is_named(layout):
        yield layout.name.replace("(side)", "")  # the same speakers, which AAC and Opus have a standard code for
        yield layout.name
    yield LAYOUTS.get(layout.nb_channels, "stereo")
    yield "stereo"


def is_named(layout: Any) -> bool:
    """Whether it is known which speakers the channels are for."""
    return re.fullmatch(r"\d+ channels", layout.name) is None


class ConvertedTrack:
    """Audio that is decoded, stretched in time with its pitch kept, and encoded again.

    It keeps to the source's time stamps: gaps become silence, and overlaps are cut. Layout, rate and sample format may
    change at any frame.
    """

    def __init__(self, stream: Any, container: av.container.OutputContainer, form: AudioForm, stretch: int) -> None:
        self._decoder = stream.codec_context
        self._stretch = stretch
        writer: Any = container
        self.output = writer.add_stream(form.codec, rate=form.rate, layout=form.layout)
        self._encoder = self.output.codec_context
        self._encoder.bit_rate = BIT_RATE * self._encoder.layout.nb_channels
        self._encoder.open()
        self._rate = form.rate
        self._fifo: Any = av.AudioFifo()
        self._graph: Any = None
        self._format: tuple[Any, ...] = ()
        self._expected = Fraction(0)
        """When the next frame is due, in seconds."""
        self._begun = False
        self._position = 0
        """In output samples: the end of what has gone into the queue."""
        self._sent = 0

    def take(self, packet: Any) -> Iterator[Any]:
        """Decode a packet, and yield the encoded packets that become ready."""
        yield from self._decode(packet)

    def finish(self) -> Iterator[Any]:
        """Yield the remaining packets."""
        yield from self._decode(None)
        yield from self._close_graph()
        if self._begun:
            yield from self._encode(rest=True)
            yield from self.output.encode(None)

    def _decode(self, packet: Any) -> Iterator[Any]:
        try:
            frames = self._decoder.decode(packet)
        except FFmpegError:
            return  # The gap becomes silence.
        for frame in frames:
            if frame.samples and frame.sample_rate:
                yield from self._filter(frame)

    def _filter(self, frame: Any) -> Iterator[Any]:
        time = self._time(frame)
        found = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._graph is None or found != self._format or abs(time - self._expected) > TOLERANCE:
            yield from self._close_graph()
            position = round(time * self._stretch * self._rate)
            yield from self._fill(position)
            self._open_graph(frame, skip=self._position - position)
            self._format = found
            self._expected = time
        self._expected += Fraction(frame.samples, frame.sample_rate)
        frame.pts = None
        self._graph.push(frame)
        yield from self._drain()

    def _time(self, frame: Any) -> Fraction:
        """When a frame is due, in seconds."""
        if frame.pts is None or not frame.time_base:
            return self._expected
        time: Fraction = frame.pts * Fraction(frame.time_base)
        if self._begun and not -LONGEST_OVERLAP <= time - self._expected <= LONGEST_GAP:
            return self._expected
        return time

    def _fill(self, position: int) -> Iterator[Any]:
        """Add silence up to a position, if it is not reached yet."""
        if not self._begun:
            self._begun = True
            self._position = self._sent = position
        while self._position < position:
            silence: Any = av.AudioFrame(
                format=self._encoder.format.name,
                layout=self._encoder.layout.name,
                samples=min(self._rate, position - self._position),
            )
            silence.sample_rate = self._rate
            for plane in silence.planes:
                plane.update(bytes(plane.buffer_size))
            yield from self._queue(silence)

    def _open_graph(self, frame: Any, *, skip: int) -> None:
        graph = av.filter.Graph()
        wanted = ":".join((
            f"sample_fmts={self._encoder.format.name}",
            f"sample_rates={self._rate}",
            f"channel_layouts={self._encoder.layout.name}",
        ))  # fmt: skip
        nodes = [
            graph.add_abuffer(
                format=frame.format.name,
                sample_rate=frame.sample_rate,
                layout=frame.layout.name,
                time_base=Fraction(1, frame.sample_rate),
            ),
            *(graph.add(name, arguments) for name, arguments in self._tempo(frame.sample_rate)),
            graph.add("aformat", wanted),
            *([graph.add("atrim", f"start_sample={skip}")] if skip else []),
            graph.add("abuffersink"),
        ]
        graph.link_nodes(*nodes).configure()
        self._graph = graph

    def _tempo(self, rate: int) -> list[tuple[str, str]]:
        """The filters that stretch sound in time. atempo leaves out half of its first window, and so is early."""
        if self._stretch == 1:
            return []
        half_window = 2 ** math.ceil(math.log2(rate / TEMPO_WINDOWS)) // 2
        return [("atempo", str(1 / self._stretch)), ("adelay", f"{half_window}S:all=1")]

    def _close_graph(self) -> Iterator[Any]:
        if self._graph is not None:
            self._graph.push(None)
            yield from self._drain()
            self._graph = None

    def _drain(self) -> Iterator[Any]:
        while True:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            yield from self._queue(frame)

    def _queue(self, frame: Any) -> Iterator[Any]:
        frame.pts = None
        self._position += frame.samples
        self._fifo.write(frame)
        yield from self._encode()

    def _encode(self, rest: bool = False) -> Iterator[Any]:
        size = self._encoder.frame_size or 1024
        while (frame := self._fifo.read(size, rest)) is not None:
            frame.pts = self._sent
            frame.time_base = Fraction(1, self._rate)
            self._sent += frame.samples
            yield from self.output.encode(frame)
