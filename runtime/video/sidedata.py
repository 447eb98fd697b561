"""Data that comes with decoded frames, beside their pixels: what is used, and what is lost."""

import struct
import sys
from collections.abc import Mapping
from typing import Any

import av
from av.sidedata.sidedata import SideDataContainer, Type

LOST = {
    Type.A53_CC: "closed captions",
    Type.AFD: "the active format description",
    Type.AMBIENT_VIEWING_ENVIRONMENT: "the ambient viewing environment",
    Type.DOVI_METADATA: "Dolby Vision metadata",
    Type.DOVI_RPU_BUFFER: "Dolby Vision metadata",
    Type.DYNAMIC_HDR_PLUS: "HDR10+ metadata",
    Type.DYNAMIC_HDR_VIVID: "HDR Vivid metadata",
    Type.ICC_PROFILE: "the ICC profile",
    Type.PANSCAN: "pan and scan",
    Type.S12M_TIMECODE: "the frames' own time codes",
    Type.SPHERICAL: "the 360-degree projection",
}
"""What doesn't reach the output, in words."""

NEWER = {28: "LCEVC's enhancement", 29: "", 30: "the 3D reference displays", 31: "the Exif metadata"}
"""The same for types that PyAV doesn't know; nothing for a view's number."""

USED = {
    Type.CONTENT_LIGHT_LEVEL,
    Type.DISPLAYMATRIX,
    Type.MASTERING_DISPLAY_METADATA,
    Type.STEREO3D,
    # By-products of encoding and decoding, of no use to a viewer.
    Type.DETECTION_BBOXES,
    Type.FILM_GRAIN_PARAMS,
    Type.GOP_TIMECODE,
    Type.MOTION_VECTORS,
    Type.REGIONS_OF_INTEREST,
    Type.SKIP_SAMPLES,
    Type.VIDEO_ENC_PARAMS,
    Type.VIDEO_HINT,
}

ENCODERS = {
    bytes.fromhex("dc45e9bde6d948b7962cd820d923eeef"),  # x264
    bytes.fromhex("2ca2de09b51747dbbb55a4fe7fc2fc4e"),  # x265
}
"""The UUIDs under which encoders store their settings."""

STEREO = {
    1: ("left_right", "right_left"),
    2: ("top_bottom", "bottom_top"),
    4: ("checkerboard_lr", "checkerboard_rl"),
    6: ("row_interleaved_lr", "row_interleaved_rl"),
    7: ("col_interleaved_lr", "col_interleaved_rl"),
}
"""Matroska's names of FFmpeg's AVStereo3DType, with the left eye first and with the right eye first."""


def read(frame: av.VideoFrame) -> Mapping[Type, bytes]:
    """The side data of a frame, by type."""
    # Not frame.side_data, which makes a reference cycle: frames would live until a garbage collection.
    container: Any = SideDataContainer
    return {data.type: bytes(data) for data in container(frame)}


def _unknown(kind: type[Type], value: int) -> Any:
    """Make a member of PyAV's enumeration for a type of FFmpeg's that it lacks."""
    member: Any = object.__new__(kind)
    member._name_ = f"UNKNOWN_{value}"
    member._value_ = value
    return member


# Otherwise a frame with data of one such type seems to have none at all.
Type._missing_ = classmethod(_unknown)  # type: ignore[assignment, method-assign]


def lost(found: Mapping[Type, bytes], size: tuple[int, int]) -> set[str]:
    """Name what comes with a frame of this size, and doesn't reach the output."""
    return {_name(kind, data, size) for kind, data in found.items() if kind not in USED} - {""}


def timecode(first: Mapping[Type, bytes]) -> str | None:
    """The time code in an MPEG-2 video's first frame; None if it is 0, which encoders write if they are given none."""
    code = int.from_bytes(first.get(Type.GOP_TIMECODE, b"")[:4], sys.byteorder)
    drop, hours, minutes, seconds, frames = code >> 24 & 1, code >> 19 & 31, code >> 13 & 63, code >> 6 & 63, code & 63
    if not (hours or minutes or seconds or frames):
        return None
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{';' if drop else ':'}{frames:02d}"


def _name(kind: Type, data: bytes, size: tuple[int, int]) -> str:
    if kind is Type.SEI_UNREGISTERED:
        return "" if data[:16] in ENCODERS else "user data"
    if kind is Type.PANSCAN and struct.unpack_from("=2i", data, 4) in ((0, 0), (16 * size[0], 16 * size[1])):
        return ""  # all of the frame
    if kind.value in NEWER:
        return NEWER[kind.value]
    return LOST.get(kind, f"{kind.name.lower().replace('_', ' ')} metadata")


def stereo(found: Mapping[Type, bytes]) -> str | None:
    """How a frame holds two views, as Matroska names it; None if it holds one, or in a way without a name."""
    data = found.get(Type.STEREO3D)
    if data is None or len(data) < 8:
        return None
    kind, inverted = struct.unpack_from("=2i", data)
    names = STEREO.get(kind)
    return names[inverted & 1] if names else None
