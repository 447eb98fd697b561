"""torch tensors in and out, without leaving the GPU: prints the mean brightness of every restored frame.

python examples/gpu_torch.py models/compact input.mp4
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.dlpack import from_dlpack

from zsm import engine
from zsm.runtime.video import read_frames


def main() -> None:
    """Restore on a torch stream, so that neither library waits for the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("input", type=Path)
    args = parser.parse_args()

    stream = torch.cuda.Stream()

    def frames() -> Iterator[torch.Tensor]:
        for frame in read_frames(args.input):  # yours may come from NVDEC or a network: (h,w,3) on the GPU
            yield torch.from_numpy(frame).cuda(non_blocking=True)

    with (
        torch.cuda.stream(stream),
        engine.Runtime(args.bundle, device="cuda:0", build=True, cuda_stream=stream.cuda_stream) as rt,
    ):
        for number, frame in enumerate(rt.stream(frames())):
            tensor = from_dlpack(frame)  # (4h,4w,3), in the same memory
            print(number, tuple(tensor.shape), f"{tensor.float().mean().item():.2f}")


if __name__ == "__main__":
    main()
