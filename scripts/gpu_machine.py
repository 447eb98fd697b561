"""Prints the machine and its GPUs as lines of JSON, and the bandwidth that a copy reaches."""

import importlib.metadata
import json
import platform
import subprocess

from scripts.gpu_parts import ROOT, has_cuda_torch

PACKAGES = ("cuda-python", "numpy", "onnx", "onnxruntime-gpu", "tensorrt", "torch", "torchvision")
QUERY = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit"


def output(*command: str) -> str:
    """A program's output; empty if it can't be run."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def main() -> None:
    versions = {found.name: found.version for found in importlib.metadata.distributions() if found.name in PACKAGES}
    about = {"system": platform.platform(), "python": platform.python_version()}
    print(json.dumps({**about, "commit": output("git", "rev-parse", "HEAD"), **versions}), flush=True)
    gpus = output("nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader").splitlines()
    for number, line in enumerate(gpus):
        print(json.dumps({"gpu": number, **dict(zip(QUERY.split(","), line.split(", "), strict=False))}), flush=True)
    if gpus and has_cuda_torch():
        from benchmarks.deform_conv import bandwidth

        print(json.dumps({"bandwidth_gb_s": round(bandwidth(10), 1)}), flush=True)


if __name__ == "__main__":
    main()
