"""HDR's static metadata: the mastering display's colours and the content's brightness.

FFmpeg decodes it to the structures AVMasteringDisplayMetadata and AVContentLightMetadata; encoders take it as text,
with names and units of their own.
"""

import struct
from collections.abc import Callable, Iterator
from fractions import Fraction

from zsm.runtime.video.source import Info

Point = tuple[Fraction, Fraction]
Format = Callable[[Fraction], str]


def x265_parameters(info: Info) -> Iterator[str]:
    """Write it in x265's units: 0.00002 for chromaticity, 0.0001 cd/m2 for luminance."""
    return _parameters(
        info,
        names=("master-display", "max-cll"),
        chromaticity=lambda x: f"{round(x * 50000)}",
        luminance=lambda x: f"{round(x * 10000)}",
    )


def svt_parameters(info: Info) -> Iterator[str]:
    """Write it in SVT-AV1's units: 1 for chromaticity, 1 cd/m2 for luminance."""
    return _parameters(
        info,
        names=("mastering-display", "content-light"),
        chromaticity=lambda x: f"{float(x):.5f}",
        luminance=lambda x: f"{float(x):.4f}",
    )


def _parameters(info: Info, *, names: tuple[str, str], chromaticity: Format, luminance: Format) -> Iterator[str]:
    """As both expect it: `display=G(x,y)B(x,y)R(x,y)WP(x,y)L(highest,lowest)` and `light=content,average`."""
    display, light = names
    mastering = parse_mastering(info.mastering)
    if mastering is not None:
        red, green, blue, white, low, high = mastering
        points = "".join(
            f"{letter}({chromaticity(x)},{chromaticity(y)})"
            for letter, (x, y) in (("G", green), ("B", blue), ("R", red), ("WP", white))
        )
        yield f"{display}={points}L({luminance(high)},{luminance(low)})"
    if info.light_level is not None:
        yield "{}={},{}".format(light, *struct.unpack_from("=2I", info.light_level))


def parse_mastering(data: bytes | None) -> tuple[Point, Point, Point, Point, Fraction, Fraction] | None:
    """Parse mastering display data: red, green, blue and white (x,y), lowest and highest luminance in cd/m2."""
    if data is None or len(data) < 88:
        return None
    numbers = struct.unpack_from("=22i", data)
    if not numbers[20] or not numbers[21] or 0 in numbers[1:20:2]:
        return None
    values = [Fraction(a, b) for a, b in zip(numbers[0:20:2], numbers[1:20:2], strict=True)]
    red, green, blue, white = zip(values[0:8:2], values[1:8:2], strict=True)
    return red, green, blue, white, values[8], values[9]
