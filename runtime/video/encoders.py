"""The choice of an encoder, its pixel format and its settings."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

import av
import cv2
from av.codec.codec import Capabilities
from av.error import FFmpegError

from zsm.errors import ArgumentError, Error, VideoError
from zsm.limits import cores
from zsm.runtime.video import colour as colours
from zsm.runtime.video import hdr
from zsm.runtime.video.colour import Colour
from zsm.runtime.video.source import Info, message

# SVT-AV1 writes to standard error on its own; errors only, unless the user wants more.
os.environ.setdefault("SVT_LOG", "1")


@dataclass(frozen=True)
class Codec:
    """A video codec: its software encoder, its hardware encoders, and sensible settings for 4x video."""

    software: str
    hardware: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    crf: int | None = None
    preset: str | None = None
    preset_option: str = "preset"
    memory: tuple[int, int] = (0, 50)
    """What the software encoder takes with these settings, in bytes per pixel: at most per frame, and altogether."""
    lean: tuple[str, str] | None = None
    """An option with which it takes less memory, and more bits for the same quality."""
    lean_memory: int = 0
    """What it takes with that, altogether."""


CODECS = {
    "h264": Codec(
        "libx264",
        ("h264_nvenc", "h264_qsv", "h264_amf"),
        crf=18,
        preset="medium",
        memory=(6, 200),
        lean=("x264-params", "rc-lookahead=2:bframes=1:ref=1"),
        lean_memory=45,
    ),
    "hevc": Codec(
        "libx265",
        ("hevc_nvenc", "hevc_qsv", "hevc_amf"),
        crf=20,
        preset="medium",
        memory=(7, 260),
        lean=("x265-params", "rc-lookahead=2:bframes=1:ref=1"),
        lean_memory=110,
    ),
    "av1": Codec(
        "libsvtav1",
        ("av1_nvenc", "av1_qsv", "av1_amf"),
        crf=26,
        preset="8",
        memory=(14, 340),
        lean=("svtav1-params", "pred-struct=1:lookahead=0"),
        lean_memory=65,
    ),
    "vp9": Codec(
        "libvpx-vp9",
        ("vp9_qsv",),
        (("row-mt", "1"), ("b", "0")),
        crf=24,
        preset="4",
        preset_option="cpu-used",
        memory=(11, 180),
        lean=("lag-in-frames", "0"),
        lean_memory=95,
    ),
    "prores": Codec("prores_ks", settings=(("profile", "hq"),)),
    "ffv1": Codec("ffv1", settings=(("level", "3"), ("slicecrc", "1"))),
}
"""By the names that --codec accepts. Memory was measured with noise on two cores (`benchmarks/encoders.py`)."""

LOOKAHEAD = 10
"""Frames by which x264 looks ahead in frames of more than `LARGE` pixels; its usual 40 take 3 GB more at 7680x4320."""
LARGE = 2**24

MUXERS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov", ".webm": "webm"}
CONTAINERS = {".mp4": "h264", ".mkv": "h264", ".mov": "h264", ".webm": "vp9"}
"""The containers that can be written, by suffix, and their codec for 8-bit video."""
DEEP_CODECS = {".webm": "av1"}
"""The codec for deeper and for HDR video, by suffix; HEVC elsewhere."""

Y4M_FORMATS = [f"yuv{chroma}p{bits}" for chroma in ("420", "422", "444") for bits in ("", "10le", "12le", "16le")] + [
    "gray"
]

LARGEST_TERM = 10**9
"""The largest numerator or denominator of a frame rate: libvpx's limit; FFmpeg's own is twice as high."""

FRAME_PACKING = {
    "checkerboard_lr": 0,
    "col_interleaved_lr": 1,
    "row_interleaved_lr": 2,
    "left_right": 3,
    "top_bottom": 4,
}
"""H.264's own codes for stereo layouts (ITU-T H.264, table D-8), which x264 writes into the stream."""

MOST_THREADS = 16
"""More cost quality, as FFmpeg warns."""

AVX_512 = 13
"""OpenCV's number for the processor feature AVX512F; its Python module has no name for it."""
AVX2 = "asm=avx2,fma3,bmi1,bmi2,lzcnt"
"""x264's parameter for processors with AVX-512. Its code for that reads memory that nothing was written to, and so
encodes the same frames differently each time."""

OPTIONS = {"threads": "encoder_threads"}
"""The options of `zsm run` that aren't called like the field of `Encoding`."""

QUALITY_OPTIONS = {"nvenc": "cq", "qsv": "global_quality", "amf": "qp_i"}


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How the output is encoded; None means that the source and the container decide. Raises ArgumentError."""

    codec: str | None = None
    """A key of CODECS, or the name of an FFmpeg encoder (which uses FFmpeg's defaults, unless CODECS has it too)."""
    crf: float | None = None
    """Constant quality, on the encoder's own scale."""
    preset: str | None = None
    pix_fmt: str | None = None
    hardware: bool = False
    """Use the first hardware encoder that works."""
    lean: bool = False
    """Take less memory, and more bits for the same quality. Chosen automatically where memory is short."""
    threads: int | None = None
    """Threads of a software encoder, some of which write other frames with another number; None: one per processor."""

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= self.threads <= MOST_THREADS:
            raise ArgumentError(f"an encoder can have 1 to {MOST_THREADS} threads, got {self.threads}")
        if self.crf is not None and not 0 <= self.crf <= 255:
            raise ArgumentError(f"invalid crf {self.crf:g}; give 0 (best) to 51 or 63, depending on the codec")

    def allow(self, *names: str, output: str) -> None:
        """Raise ArgumentError if any option but `names` was given, for an output that has no use for it."""
        unused = [
            f"--{OPTIONS.get(option.name, option.name).replace('_', '-')}"
            for option in fields(self)
            if option.name not in names and getattr(self, option.name) != option.default
        ]
        if unused:
            raise ArgumentError(
                f"{output} have no use for {', '.join(unused)}: leave that out, or make the output a video file "
                f"({', '.join(CONTAINERS)})"
            )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An encoder and its parameters."""

    encoder: str
    size: tuple[int, int]
    rate: Fraction
    pixel_format: str
    colour: Colour
    aspect: Fraction
    stereo: str | None = None
    """How a frame holds two views, as Matroska names it."""
    options: tuple[tuple[str, str], ...]
    threads: int = 1
    notes: tuple[str, ...] = ()

    def open(self, container: av.container.OutputContainer) -> av.VideoStream:
        """Add the encoder's stream to a container; raises VideoError, or ArgumentError for an unknown option."""
        try:
            stream: av.VideoStream = container.add_stream(self.encoder, rate=self.rate, options=self._all_options())  # type: ignore[assignment]
            context = stream.codec_context
            context.thread_count = self.threads
            context.width, context.height = self.size
            context.pix_fmt = self.pixel_format
            context.time_base = 1 / self.rate
            context.sample_aspect_ratio = self.aspect
            colours.tag(context, self.colour)
            context.open()
        except (FFmpegError, ValueError) as error:
            raise VideoError(f"{self.encoder} can't write {self._what()}: {message(error)}") from error
        if context.options:  # FFmpeg leaves those that it doesn't know
            raise ArgumentError(f"{self.encoder} has no option {', '.join(context.options)}; leave that out")
        return stream

    def check(self, suffix: str) -> None:
        """Raise VideoError if the encoder can't be opened, or if the container, or a segment, can't hold its codec."""
        try:
            with av.open(io.BytesIO(), "w", format=MUXERS[suffix]) as trial:
                self.open(trial)
                trial.start_encoding()
        except Error:
            raise
        except (FFmpegError, ValueError) as error:
            raise VideoError(f"{suffix} can't hold what {self.encoder} writes: {message(error)}") from error
        try:
            with av.open(io.BytesIO(), "w", format=MUXERS[".mkv"]) as trial:
                trial.add_stream(self.encoder, rate=self.rate)
        except (FFmpegError, ValueError) as error:
            raise VideoError(
                f"{self.encoder} isn't supported: zsm writes segments in Matroska, which can't hold it; "
                f"choose {', '.join(CODECS)}, and convert the result"
            ) from error

    def _all_options(self) -> dict[str, str]:
        """The options, those by which some encoders take the number of threads, and what this processor needs."""
        options = dict(self.options)
        if self.encoder == "libx264" and cv2.checkHardwareSupport(AVX_512):
            options["x264-params"] = ":".join(filter(None, [options.get("x264-params"), AVX2]))
        if self.encoder == "libx265":
            frames = max(1, min(self.threads // 2, 4))
            options["x265-params"] += f":pools={self.threads}:frame-threads={frames}"
        if self.encoder == "libsvtav1":
            options["svtav1-params"] = ":".join(filter(None, [options.get("svtav1-params"), f"lp={self.threads}"]))
        return options

    def _what(self) -> str:
        options = " ".join(f"{name}={value}" for name, value in self.options)
        return f"{self.size[0]}x{self.size[1]} {self.pixel_format}{' with ' if options else ''}{options}"


def plan(encoding: Encoding, info: Info, suffix: str, rate: Fraction, scale: int) -> Plan:
    """Choose an encoder for a source's restored frames.

    Raises ArgumentError for an unknown codec, encoder, format or container, and VideoError if the encoder doesn't work.
    """
    if suffix not in CONTAINERS:
        known = ", ".join(CONTAINERS)
        raise ArgumentError(f"can't write {suffix or 'a file without suffix'}; choose {known}, or a folder")
    name = encoding.codec or _default_codec(info.colour, suffix)
    codec = _codec(name)
    encoder = _encoder(name, codec, hardware=encoding.hardware)
    if encoding.threads is not None and encoder in codec.hardware:
        raise ArgumentError(f"{encoder} is in hardware and has no use for --encoder-threads; leave that out")
    pixel_format = encoding.pix_fmt or _pixel_format(encoder, info)
    colour = _colour(info.colour, encoder, pixel_format)
    notes = []
    if colour.bits < info.colour.bits:
        notes.append(f"{info.colour.bits} bits per component are stored as {colour.bits} ({encoder}, {pixel_format})")
    if info.colour.hdr and encoder not in ("libx265", "libsvtav1") and (info.mastering or info.light_level):
        notes.append(f"{encoder} doesn't carry HDR's static metadata; the colour tags are kept")
    made = Plan(
        encoder=encoder,
        size=(info.size[0] * scale, info.size[1] * scale),
        rate=_nominal(rate),
        pixel_format=pixel_format,
        colour=colour,
        aspect=info.aspect,
        stereo=info.stereo,
        options=tuple(_options(encoding, codec, encoder, info, scale).items()),
        threads=encoding.threads or min(cores(), MOST_THREADS),
        notes=tuple(notes),
    )
    try:
        made.check(suffix)
    except VideoError as error:
        if encoder not in codec.hardware:
            raise
        raise VideoError(f"{error}; {_without_hardware(codec)}") from error
    return made


def can_be_lean(encoding: Encoding, info: Info, suffix: str) -> bool:
    """Whether the encoder has settings with which it takes less memory."""
    codec = _codec(encoding.codec or _default_codec(info.colour, suffix))
    return codec.lean is not None and not _on_hardware(encoding, codec)


def memory(encoding: Encoding, info: Info, suffix: str, frames: int, scale: int) -> int:
    """The bytes of memory that a software encoder takes for `frames` restored frames; few for a hardware encoder."""
    codec = _codec(encoding.codec or _default_codec(info.colour, suffix))
    each, most = Codec.memory if _on_hardware(encoding, codec) else codec.memory
    pixels = _pixels(info, scale)
    if encoding.lean:
        most = codec.lean_memory
    elif codec.software == "libx264" and pixels > LARGE:
        most //= 2
    return pixels * min(each * frames or most, most)


def _on_hardware(encoding: Encoding, codec: Codec) -> bool:
    """Whether the encoder is one in hardware, asked for by `hardware` or by its name."""
    return encoding.hardware or encoding.codec in codec.hardware


def _pixels(info: Info, scale: int) -> int:
    """The pixels of a restored frame."""
    return info.size[0] * info.size[1] * scale**2


def uncompressed(info: Info, pixel_format: str | None, rate: Fraction, scale: int, *, raw: bool) -> Plan:
    """Choose the format of a pipe: raw frames in the source's pixel format, or y4m in the nearest one it has."""
    name = pixel_format or (info.pixel_format if raw else _nearest(Y4M_FORMATS, info))
    target = colours.video_format(name)
    if not raw and name not in Y4M_FORMATS:
        raise ArgumentError(f"y4m has no pixel format {name}; choose {', '.join(Y4M_FORMATS)}")
    return Plan(
        encoder="rawvideo" if raw else "wrapped_avframe",
        size=(info.size[0] * scale, info.size[1] * scale),
        rate=_nominal(rate),
        pixel_format=name,
        colour=info.colour.encoded(target),
        aspect=info.aspect,
        options=(),
    )


def _codec(name: str) -> Codec:
    """Find a codec by its name or encoder; any other encoder gets no settings."""
    return next((codec for key, codec in CODECS.items() if name in (key, codec.software, *codec.hardware)), Codec(name))


def _nominal(rate: Fraction) -> Fraction:
    """The nearest rate that encoders accept: the average of a long video of varying rate may have larger terms."""
    rate = min(max(rate, Fraction(1, LARGEST_TERM)), Fraction(LARGEST_TERM))
    return rate.limit_denominator(LARGEST_TERM) if rate < 1 else 1 / (1 / rate).limit_denominator(LARGEST_TERM)


def _default_codec(colour: Colour, suffix: str) -> str:
    if colour.bits > 8 or colour.hdr:
        return DEEP_CODECS.get(suffix, "hevc")
    return CONTAINERS[suffix]


def _formats(encoder: str) -> list[str]:
    """The pixel formats an encoder accepts in ordinary memory; empty if they depend on the machine."""
    try:
        found = av.Codec(encoder, "w")
        listed = found.video_formats or []
        if found.type != "video" or not (listed or found.capabilities & Capabilities.hardware):
            raise ValueError  # such as aac, or rawvideo
    except (FFmpegError, ValueError) as error:
        raise ArgumentError(
            f"there is no encoder {encoder!r} for video files here; choose {', '.join(CODECS)}, "
            "or the name of an FFmpeg encoder"
        ) from error
    # Formats without components, such as qsv and cuda, are frames in a graphics card's memory.
    return [candidate.name for candidate in listed if candidate.components]


def _pixel_format(encoder: str, info: Info) -> str:
    formats = _formats(encoder)
    usable = [name for name in formats if _is_plain(name)] or formats or ["yuv420p"]
    return _nearest(usable, info, keep_kind=encoder == "ffv1")


def _nearest(names: Sequence[str], info: Info, *, keep_kind: bool = False) -> str:
    """The format closest to the source's depth and chroma; RGB and grey become 4:2:0 unless `keep_kind`."""
    own_kind = _kind(av.VideoFormat(info.pixel_format))
    wanted = own_kind if keep_kind or own_kind not in ("rgb", "grey") else "yuv420"

    def distance(name: str) -> tuple[int, int, int, int]:
        candidate = av.VideoFormat(name)
        bits = max(component.bits for component in candidate.components) - info.colour.bits
        return (max(0, -bits), _kind(candidate) != wanted, _kind(candidate) != "yuv420", abs(bits))

    return min(names, key=distance)


def _is_plain(name: str) -> bool:
    """Neither full-range, nor with alpha, nor packed. Hardware encoders use nv12, or p010le for 10 bits."""
    return name.startswith(("yuv4", "gray", "gbrp", "nv12", "p01")) and "msb" not in name and "be" not in name


def _kind(video_format: av.VideoFormat) -> str:
    if colours.is_rgb(video_format):
        return "rgb"
    if colours.is_grey(video_format):
        return "grey"
    return "yuv" + {(2, 2): "420", (2, 1): "422", (1, 1): "444"}.get(_subsampling(video_format), "420")


def _subsampling(video_format: av.VideoFormat) -> tuple[int, int]:
    return 256 // video_format.chroma_width(256), 256 // video_format.chroma_height(256)


def _colour(colour: Colour, encoder: str, pixel_format: str) -> Colour:
    target = colours.video_format(pixel_format)
    formats = _formats(encoder)
    if formats and pixel_format not in formats:
        raise ArgumentError(f"{encoder} can't write {pixel_format}; it can write {', '.join(formats)}")
    return colour.encoded(target)


def _encoder(name: str, codec: Codec, *, hardware: bool) -> str:
    if name in codec.hardware:
        return name
    if not hardware:
        return codec.software
    if name not in CODECS or not codec.hardware:
        able = ", ".join(key for key, known in CODECS.items() if known.hardware)
        raise ArgumentError(f"no hardware encoder for {name} is known; leave out --hardware, or choose --codec {able}")
    refusals = {}
    for encoder in codec.hardware:
        refusals[encoder] = _refusal(encoder)
        if refusals[encoder] is None:
            return encoder
    tried = "; ".join(f"{encoder}: {refusal}" for encoder, refusal in refusals.items())
    raise VideoError(f"no hardware encoder for {name} works here (tried {tried}); {_without_hardware(codec)}")


def _without_hardware(codec: Codec) -> str:
    return f"to encode on the CPU, use --codec {codec.software} without --hardware"


def _refusal(encoder: str) -> str | None:
    """Why an encoder can't be opened; None if it can."""
    try:
        context: Any = av.CodecContext.create(encoder, "w")
        context.width, context.height, context.pix_fmt = 256, 256, "nv12"
        context.time_base = Fraction(1, 25)
        context.open()
    except (FFmpegError, ValueError) as error:
        return message(error)
    return None


def _options(encoding: Encoding, codec: Codec, encoder: str, info: Info, scale: int) -> dict[str, str]:
    options = dict(codec.settings) if encoder == codec.software else {}
    vendor = encoder.rpartition("_")[2]
    software = vendor not in QUALITY_OPTIONS
    crf = encoding.crf if encoding.crf is not None else codec.crf
    if crf is not None:
        options[QUALITY_OPTIONS.get(vendor, "crf")] = f"{crf:g}"
    preset = encoding.preset or (codec.preset if software else None)
    if preset is not None:
        options[codec.preset_option if software else "preset"] = preset
    if encoder == "libx264":
        parameters = [f"rc-lookahead={LOOKAHEAD}"] if _pixels(info, scale) > LARGE and not encoding.lean else []
        parameters += [f"frame-packing={FRAME_PACKING[info.stereo]}"] if info.stereo in FRAME_PACKING else []
        options["x264-params"] = ":".join(parameters)
    if encoder == "libx265":
        options["x265-params"] = ":".join(["log-level=none", *hdr.x265_parameters(info)])
    if encoder == "libsvtav1":
        options["svtav1-params"] = ":".join(hdr.svt_parameters(info))
    if encoding.lean:
        if codec.lean is None or encoder != codec.software:
            able = ", ".join(known.software for known in CODECS.values() if known.lean)
            raise ArgumentError(f"{encoder} can't be made lean; leave out --lean, or choose --codec {able}")
        name, value = codec.lean
        options[name] = ":".join(filter(None, [options.get(name), value]))
    return {key: value for key, value in options.items() if value}
