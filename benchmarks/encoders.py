"""Memory that software encoders take with zsm's settings, the usual and the lean ones, in bytes per pixel of a frame.

    python benchmarks/encoders.py [--size 1280x720] [--frames 70]

Each encoder runs in a process of its own, on noise that moves. `CODECS` in runtime/video/encoders.py has the figures
that runs count on. Results go to benchmarks/results/encoders.json.
"""

import argparse
import io
import json
import subprocess
import sys
from datetime import date
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import av
import numpy as np

from zsm.engine import host
from zsm.engine.bundle.shapes import Size
from zsm.engine.diagnose import machine
from zsm.runtime.video.colour import BT709, Colour
from zsm.runtime.video.encoders import CODECS, Encoding, plan
from zsm.runtime.video.source import Info

RESULT = Path(__file__).parent / "results" / "encoders.json"
AFTER = (15, 30)
"""Frames after which the peak is noted, besides the last."""


def measure(codec: str, lean: bool, size: Size, frames: int) -> dict[str, Any]:
    noise = np.random.default_rng(0).integers(0, 256, (size.height + 2 * frames, size.width, 3), np.uint8)
    info = Info(
        name="noise",
        size=(size.width, size.height),
        colour=Colour(matrix=BT709, full_range=False),
        pixel_format="yuv420p",
        time_base=Fraction(1, 25),
        rate=Fraction(25),
    )
    chosen = plan(Encoding(codec=codec, lean=lean), info, ".mkv", Fraction(50), 1)
    with av.open(io.BytesIO(), "w", format="matroska") as container:
        before = host.own("VmRSS")
        stream = chosen.open(container)
        peaks = {}
        for number in range(frames):
            pixels = np.ascontiguousarray(noise[2 * number : 2 * number + size.height])
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=chosen.pixel_format)
            frame.pts = number
            stream.encode(frame)
            if number + 1 in (*AFTER, frames):
                peaks[number + 1] = round((host.own("VmHWM") - before) / size.pixels, 1)
    return {"codec": codec, "lean": lean, "bytes_per_pixel": peaks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=Size.parse, default=Size(1280, 720))
    parser.add_argument("--frames", type=int, default=70)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--lean", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.lean, args.size, args.frames)))
        return
    rows = []
    for codec, lean in product(CODECS, (False, True)):
        if lean and CODECS[codec].lean is None:
            continue
        command = [sys.executable, __file__, "--one", codec, "--size", str(args.size), "--frames", str(args.frames)]
        command += ["--lean"] if lean else []
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout))
        print(rows[-1], flush=True)
    result = {
        "command": " ".join(["python benchmarks/encoders.py", *sys.argv[1:]]),
        "date": date.today().isoformat(),
        "machine": machine.describe(),
        "size": str(args.size),
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
