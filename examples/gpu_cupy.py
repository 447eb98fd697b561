"""CuPy arrays in and out, without leaving the GPU: prints the mean brightness of every restored frame.

python examples/gpu_cupy.py models/compact input.mp4
"""

import argparse
from pathlib import Path

import cupy

from zsm import engine
from zsm.runtime.video import read_frames


def main() -> None:
    """Restore on a CuPy stream, so that neither library waits for the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("input", type=Path)
    args = parser.parse_args()

    stream = cupy.cuda.Stream(non_blocking=True)
    with stream, engine.Runtime(args.bundle, device="cuda:0", build=True, cuda_stream=stream.ptr) as rt:
        for number, frame in enumerate(rt.stream(map(cupy.asarray, read_frames(args.input)))):
            array = cupy.from_dlpack(frame)  # (4h,4w,3), in the same memory
            print(number, array.shape, f"{float(array.mean()):.2f}")


if __name__ == "__main__":
    main()
