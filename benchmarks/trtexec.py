"""Each stage of a bundle in trtexec, at one frame size: the milliseconds that it reports, as lines of JSON.

    python benchmarks/trtexec.py BUNDLE --size 480x270

Builds each engine anew. A stage runs once for an input frame, an output frame or a gap between frames (docs/bundle.md).
"""

import argparse
import json
import re
import shlex
import subprocess
import tempfile
from typing import Any

from zsm.engine import Bundle
from zsm.engine.backends.tensorrt.trtexec import commands
from zsm.engine.bundle.shapes import Size, SizeRange

COMPUTING = r"GPU Compute Time:.*?min = ([\d.]+) ms, max = ([\d.]+) ms.*?median = ([\d.]+) ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--size", type=Size.parse, default=Size(480, 270))
    args = parser.parse_args()
    for stage, command in commands(Bundle(args.bundle), SizeRange.only(args.size)).items():
        print(json.dumps({"size": str(args.size), "stage": stage, **measure(command)}), flush=True)


def measure(command: str) -> dict[str, Any]:
    """Run a command of trtexec; returns the milliseconds, or why it failed."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--useCudaGraph", "--noDataTransfers"]
        done = subprocess.run([*shlex.split(command), *options], cwd=folder, text=True, capture_output=True)
    found = re.search(COMPUTING, done.stdout)
    if done.returncode or found is None:
        errors = [line for line in done.stdout.splitlines() if "[E]" in line] or ["it printed no times"]
        return {"failed": errors[-1].strip()}
    low, high, median = map(float, found.groups())
    return {"milliseconds": {"min": low, "median": median, "max": high}}


if __name__ == "__main__":
    main()
