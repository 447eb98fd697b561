"""pycuda arrays in and out, without leaving the GPU: prints the mean brightness of every restored frame.

python examples/gpu_pycuda.py models/compact input.mp4
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pycuda.autoprimaryctx  # noqa: F401  (the primary context, which all libraries share)
import pycuda.driver as cuda
from pycuda.gpuarray import GPUArray, to_gpu_async

from zsm import engine
from zsm.runtime.video import read_frames


def main() -> None:
    """Restore on a pycuda stream, so that neither library waits for the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("input", type=Path)
    args = parser.parse_args()

    stream = cuda.Stream()

    def frames() -> Iterator[GPUArray]:
        for frame in read_frames(args.input):
            yield to_gpu_async(frame, stream=stream)

    with engine.Runtime(args.bundle, device="cuda:0", build=True, cuda_stream=stream.handle) as rt:
        for number, frame in enumerate(rt.stream(frames())):
            address, _ = frame.__cuda_array_interface__["data"]
            array = GPUArray(frame.shape, frame.dtype, gpudata=address, base=frame)  # (4h,4w,3), in the same memory
            fetched = array.get_async(stream=stream)
            stream.synchronize()
            print(number, array.shape, f"{fetched.mean():.2f}")


if __name__ == "__main__":
    main()
