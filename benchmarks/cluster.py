"""How far a cluster scales: segments timed here, and a film of hours simulated with them on 1 to 1,000 workers.

    python benchmarks/cluster.py BUNDLE FILM [--segments 6] [--hours 2]

A worker has one thread. But for writing, times are of the processor, so that other programs matter little. In the
simulation a worker takes the next segment once the scan has come far enough for it; the driver scans, and writes one
finished segment after the other.
"""

import argparse
import heapq
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from zsm import Runtime, files
from zsm.runtime.video import Options, encoders, open_source
from zsm.runtime.video.encoders import Encoding
from zsm.runtime.video.pieces import Piece, pieces, render
from zsm.runtime.video.reader import Reader
from zsm.runtime.video.scan import Scan

WRITES = 20
WORKERS = (1, 10, 30, 100, 300, 1000)


def seconds(work: Callable[[], Any]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def simulate(made: list[float], workers: int, seen: float, written: float) -> dict[str, Any]:
    """`made`: seconds of each segment; `seen`, `written`: the driver's seconds to scan and to write one."""
    free = [0.0] * workers
    ends = []
    for number, duration in enumerate(made, start=1):
        end = max(heapq.heappop(free), number * seen) + duration
        heapq.heappush(free, end)
        ends.append(end)
    driver = 0.0
    for end in sorted(ends):
        driver = max(driver, end) + written
    limits = {"workers": sum(made) / workers, "scan": len(made) * seen, "writing": len(made) * written}
    return {
        "workers": workers,
        "hours": driver / 3600,
        "efficiency": sum(made) / workers / driver,
        "limit": max(limits, key=lambda name: limits[name]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("film", type=Path)
    parser.add_argument("--segments", type=int, default=6, help="how many are timed")
    parser.add_argument("--hours", type=float, default=2, help="length of the simulated film")
    args = parser.parse_args()
    options = Options(encoding=Encoding(threads=1))
    with Runtime(args.bundle, threads=1) as runtime, closing(open_source(args.film)) as source:
        info = source.info
        plan = encoders.plan(options.encoding, info, ".mkv", 2 * info.rate, runtime.scale)
        reader = Reader(source, options.excerpt, Scan(), None)
        found: list[Piece] = []
        scanned = seconds(lambda: found.extend(piece for piece in pieces(reader, options, runtime, ()) if piece))
        chosen = [found[place] for place in np.linspace(0, len(found) - 2, args.segments, dtype=int)]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "segment.mkv"
            render(source, chosen[0], runtime, plan, path)  # the first use of everything takes longer
            made = [seconds(lambda piece=piece: render(source, piece, runtime, plan, path)) for piece in chosen]  # type: ignore[misc]
            content = path.read_bytes()
            begin = time.perf_counter()
            for _ in range(WRITES):
                files.write(path, content)
            written = (time.perf_counter() - begin) / WRITES
    per_frame = scanned / reader.seen
    count = round(args.hours * 3600 * 2 * info.rate / options.segment)
    durations = list(np.random.default_rng(0).choice(made, count))
    report = {
        "size": info.size,
        "scanned_frames_per_second": 1 / per_frame,
        "seconds_per_output": float(np.mean(made)) / options.segment,
        "segment_bytes": len(content),
        "segments": count,
        "simulated": [simulate(durations, workers, per_frame * options.segment / 2, written) for workers in WORKERS],
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
