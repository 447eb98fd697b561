"""Restore a video inside your own pipeline: any iterable of frames in, an iterator of final frames out.

python examples/embed.py models/compact input.mp4 frames/
"""

import argparse
from pathlib import Path

import cv2

from zsm import engine
from zsm.runtime.video import read_frames


def main() -> None:
    """Write every restored frame as a PNG."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()

    args.output.mkdir(parents=True, exist_ok=True)
    frames = read_frames(args.input)  # RGB uint8 (h,w,3); yours may come from a camera, a decoder, a network
    with engine.Runtime(args.bundle) as rt:
        print(f"latency: {rt.latency} input frames")
        for number, frame in enumerate(rt.stream(frames)):
            cv2.imwrite(str(args.output / f"{number:06}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()
