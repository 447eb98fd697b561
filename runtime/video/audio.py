"""Audio that has to be converted."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
from av.error import FFmpegError

ENCODERS = {"webm": "libopus"}
"""The codec that audio is converted to, by container; AAC elsewhere."""
OPUS_RATE = 48000
BIT_RATE = 96000
"""Bits per second and channel."""


class ConvertedTrack:
    """Audio that is decoded, stretched in time with its pitch kept, and encoded again."""

    def __init__(self, stream: Any, container: av.container.OutputContainer, stretch: int) -> None:
        if stream.codec_context is None:
            raise ValueError("its codec is unknown")
        self._stretch = stretch
        self._stream = stream
        self.codec = ENCODERS.get(container.format.name, "aac")
        rate = OPUS_RATE if self.codec == "libopus" else stream.codec_context.sample_rate
        self.output: Any = container.add_stream(self.codec, rate=rate, layout=stream.codec_context.layout.name)
        self.output.codec_context.bit_rate = BIT_RATE * max(1, stream.codec_context.channels)
        context: Any = self.output.codec_context
        context.open()
        self._resampler = av.AudioResampler(context.format, context.layout, context.rate, context.frame_size or None)
        self._graph: Any = None
        self._samples = 0
        self._shift: Fraction | None = None

    def take(self, packet: Any, shift: Fraction) -> Iterator[Any]:
        """Decode a packet, and yield the encoded packets that become ready."""
        if self._shift is None:
            self._shift = shift
        try:
            frames = packet.decode()
        except FFmpegError:
            return
        for frame in frames:
            yield from self._filter(frame)

    def finish(self) -> Iterator[Any]:
        """Yield the remaining packets."""
        try:
            frames = self._stream.codec_context.decode(None)
        except FFmpegError:
            frames = []
        for frame in frames:
            yield from self._filter(frame)
        if self._graph is not None:
            self._graph.push(None)
            yield from self._drain()
            yield from self._encode(None)
        yield from self.output.encode(None)

    def _filter(self, frame: Any) -> Iterator[Any]:
        if self._graph is None:
            self._open(frame)
        self._graph.push(frame)
        yield from self._drain()

    def _open(self, frame: Any) -> None:
        graph = av.filter.Graph()
        nodes = [
            graph.add_abuffer(
                format=frame.format.name,
                sample_rate=frame.sample_rate,
                layout=frame.layout.name,
                time_base=Fraction(1, frame.sample_rate),
            ),
            graph.add("atempo", str(1 / self._stretch)) if self._stretch != 1 else graph.add("anull"),
            graph.add("abuffersink"),
        ]
        graph.link_nodes(*nodes).configure()
        self._graph = graph
        begin = Fraction(frame.pts or 0) * (frame.time_base or 1) - (self._shift or 0)
        self._samples = round(begin * self._stretch * self.output.codec_context.rate)

    def _drain(self) -> Iterator[Any]:
        while True:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            frame.pts = None
            yield from self._encode(frame)

    def _encode(self, frame: Any) -> Iterator[Any]:
        for resampled in self._resampler.resample(frame):
            resampled.pts = self._samples
            resampled.time_base = Fraction(1, self.output.codec_context.rate)
            self._samples += resampled.samples
            yield from self.output.encode(resampled)
