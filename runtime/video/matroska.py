"""The sample aspect ratio in a Matroska or WebM file, which FFmpeg's muxer takes from a field that PyAV can't set.

The header's place and size are fixed when a file is written. So the video track is given a longer title than it should
have, and afterwards the room is used for the display size (RFC 9559, section 5.1.4.1.28).
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from zsm.errors import VideoError

SEGMENT, TRACKS, TYPE, NAME, VIDEO = 0x18538067, 0x1654AE6B, 0x83, 0x536E, 0xE0
WIDTH, HEIGHT, DISPLAY_WIDTH, DISPLAY_HEIGHT, DISPLAY_UNIT = 0xB0, 0xBA, 0x54B0, 0x54BA, 0x54B2
CRC, VOID = 0xBF, 0xEC
VIDEO_TRACK = b"\x01"
PADDING = " " * 40
"""Two numbers, a longer size of their parent, and what a void element needs, with room to spare."""
LONGEST_HEADER = 2**20


@dataclass(frozen=True)
class _Element:
    identity: int
    raw: bytes
    """All of it."""
    content: bytes
    begin: int
    """Where its content begins, in the bytes it was read from."""

    @property
    def head(self) -> bytes:
        return self.raw[: len(self.raw) - len(self.content)]


def reserve(title: str) -> str:
    """Lengthen a video track's title by the room that `write_aspect` needs."""
    return title + PADDING


def write_aspect(path: Path, aspect: Fraction) -> None:
    """Enter a sample aspect ratio into a file whose video track has a title from `reserve`; restores the title."""
    with path.open("r+b") as file:
        begin, tracks = _find_tracks(file.read(LONGEST_HEADER))
        elements = list(_elements(tracks))
        entries = b"".join(_rewritten(element, aspect) for element in elements if element.identity != CRC)
        checksum = _encoded(CRC, zlib.crc32(entries).to_bytes(4, "little")) if elements[0].identity == CRC else b""
        if len(checksum + entries) != len(tracks):
            raise VideoError(f"can't write the aspect ratio to {path.name}: its header isn't as expected")
        file.seek(begin)
        file.write(checksum + entries)


def _find_tracks(header: bytes) -> tuple[int, bytes]:
    """Where the tracks begin, and what they hold."""
    for top in _elements(header):
        if top.identity == SEGMENT:
            for element in _elements(top.content):
                if element.identity == TRACKS:
                    return top.begin + element.begin, element.content
    raise VideoError("a Matroska file without tracks")


def _rewritten(entry: _Element, aspect: Fraction) -> bytes:
    """A track of the same length; if it is the video's, with a display size in place of the title's padding."""
    children = list(_elements(entry.content))
    if not any(child.identity == TYPE and child.content == VIDEO_TRACK for child in children):
        return entry.raw
    content = b""
    for child in children:
        if child.identity == VIDEO:
            content += _encoded(VIDEO, _with_display_size(child.content, aspect))
        elif child.identity == NAME:
            title = child.content.removesuffix(PADDING.encode())
            content += _encoded(NAME, title) if title else b""
        else:
            content += child.raw
    return entry.head + content + _encoded(VOID, bytes(len(entry.content) - len(content) - 2))


def _with_display_size(video: bytes, aspect: Fraction) -> bytes:
    elements = [e for e in _elements(video) if e.identity not in (DISPLAY_WIDTH, DISPLAY_HEIGHT, DISPLAY_UNIT)]
    values = {element.identity: int.from_bytes(element.content, "big") for element in elements}
    size = ((DISPLAY_WIDTH, round(values[WIDTH] * aspect)), (DISPLAY_HEIGHT, values[HEIGHT]))
    added = [_encoded(identity, number.to_bytes(4, "big")) for identity, number in size]
    return b"".join([*(element.raw for element in elements), *added])


def _elements(data: bytes) -> Iterator[_Element]:
    """Split into elements, as far as they are there; one of unknown length lasts to the end."""
    at = 0
    while at < len(data):
        identity, after = _number(data, at, keep_marker=True)
        size, begin = _number(data, after)
        unknown = size == 2 ** (7 * (begin - after)) - 1
        end = len(data) if unknown else begin + size
        yield _Element(identity, data[at:end], data[begin:end], begin)
        at = end


def _number(data: bytes, at: int, *, keep_marker: bool = False) -> tuple[int, int]:
    """Read a number of variable length, and return where it ends. Its first byte's leading zeros tell its length."""
    length = 9 - data[at].bit_length()
    number = int.from_bytes(data[at : at + length], "big")
    return (number if keep_marker else number & (2 ** (7 * length) - 1)), at + length


def _encoded(identity: int, content: bytes) -> bytes:
    """Encode an element, its size in as few bytes as possible."""
    size_bytes = 1
    while len(content) >= 2 ** (7 * size_bytes) - 1:
        size_bytes += 1
    size = (len(content) | 1 << (7 * size_bytes)).to_bytes(size_bytes, "big")
    return identity.to_bytes((identity.bit_length() + 7) // 8, "big") + size + content
