"""Errors at tile seams: a clip in two tiles compared with the same clip untiled, for growing overlaps.

    python benchmarks/seams.py BUNDLE CLIP [--size 256x32] [--frames 2] [--overlaps 16,32,64,128]

CLIP is a video; it is cropped to its middle. Errors are in units of 1/255, between float32 frames.
"""

import argparse
import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsm.engine import Bundle, Runtime
from zsm.engine.backends import open_backend
from zsm.engine.bundle.shapes import Size
from zsm.engine.devices import Device, OpenOptions
from zsm.runtime import Backend, Network, tiles, video
from zsm.runtime.stream import stream

Frames = NDArray[np.float32]
DISTANCES = (0, 4, 8, 16, 24, 32, 48, 64)


def read(path: Path, size: Size, count: int) -> Frames:
    source = video.open_source(path)
    codes = [frame.pixels() for frame in islice(source.frames(), count)]
    source.close()
    height, width = codes[0].shape[:2]
    top, left = (height - size.height) // 2, (width - size.width) // 2
    clip = np.stack(codes)[:, top : top + size.height, left : left + size.width]
    frames: Frames = clip.astype(np.float32) / np.float32(np.iinfo(clip.dtype).max)
    return frames


def measure(backend: Backend, network: Network, clip: Frames, whole: Any, overlap: int) -> dict[str, object]:
    height, width = clip.shape[1:3]
    tile = -(-(width + overlap) // 8) * 4, -(-height // 4) * 4
    spans = tiles.spans(width, tile[0], overlap)
    outputs = stream(
        backend, clip, network=network, window=4, overlap=1, tile_of=lambda *size: tile, tile_overlap=overlap
    )
    found = np.stack(list(outputs))
    error = 255 * np.abs(found - whole).max((0, 1, 3))
    distance = np.abs(np.arange(len(error)) // 4 - spans[0].keep.stop)
    return {
        "overlap": overlap,
        "tiles": [[span.read.start, span.read.stop] for span in spans],
        "largest_error": float(error.max()),
        "largest_error_beyond": {d: float(error[distance >= d].max()) for d in DISTANCES if (distance >= d).any()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--size", default="256x32")
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--overlaps", default="16,32,64,128")
    args = parser.parse_args()
    clip = read(args.clip, Size.parse(args.size), args.frames)
    bundle = Bundle(args.bundle)
    with Runtime(bundle, tile=None) as runtime:
        whole = runtime(clip)
    backend, _ = open_backend(bundle, "onnxruntime", OpenOptions(device=Device.parse("cpu")))
    for overlap in map(int, args.overlaps.split(",")):
        print(json.dumps(measure(backend, bundle.network, clip, whole, overlap)), flush=True)


if __name__ == "__main__":
    main()
