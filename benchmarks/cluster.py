"""How far a cluster scales, and the overhead of a cluster with a single worker.

    python benchmarks/cluster.py BUNDLE FILM [--segments 6] [--hours 2]

times segments here, and simulates a film of hours with them on 1 to 1,000 workers. A worker has one thread. But for
writing, times are of the processor, so that other programs matter little. In the simulation a worker takes the next
segment once the scan has come far enough for it; the driver scans, and writes one finished segment after the other.

    python benchmarks/cluster.py BUNDLE FILM --overhead [--frames 300] [--rounds 3]

compares a film made in one process with the same film made by the only worker of a cluster of this machine, both with
as many threads as the machine has processors. Each run has a process of its own, and the fastest of its kind counts.
Other programs do matter.
"""

import argparse
import heapq
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from zsm import Runtime, files
from zsm.cluster import Cluster
from zsm.engine.diagnose import machine
from zsm.runtime.video import Excerpt, Options, encoders, open_source, restore_source
from zsm.runtime.video.encoders import Encoding
from zsm.runtime.video.pieces import Piece, pieces, render
from zsm.runtime.video.reader import Reader
from zsm.runtime.video.scan import Scan

WRITES = 20
WORKERS = (1, 10, 30, 100, 300, 1000)
MEASURED = ("scan", "local", "cluster")


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


def scaling(args: argparse.Namespace) -> dict[str, Any]:
    """Time segments, and simulate a cluster with them."""
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
    return {
        "size": info.size,
        "scanned_frames_per_second": 1 / per_frame,
        "seconds_per_output": float(np.mean(made)) / options.segment,
        "segment_bytes": len(content),
        "segments": count,
        "simulated": [simulate(durations, workers, per_frame * options.segment / 2, written) for workers in WORKERS],
    }


def overhead(args: argparse.Namespace) -> dict[str, Any]:
    """Compare a local run with that of a single worker. The scan is what only the driver of a cluster makes."""
    runs = [{kind: in_own_process(args, kind) for kind in MEASURED} for _ in range(args.rounds)]
    scan, local, cluster = (min((run[kind] for run in runs), key=lambda found: found["seconds"]) for kind in MEASURED)
    return {
        "command": f"python {' '.join(sys.argv)}",
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "rounds": args.rounds,
        "scan": scan,
        "local": local,
        "cluster": cluster,
        "overhead": cluster["seconds"] / local["seconds"] - 1,
        "overhead_beside_scan": (cluster["seconds"] - scan["seconds"]) / local["seconds"] - 1,
    }


def in_own_process(args: argparse.Namespace, kind: str) -> dict[str, float]:
    command = [sys.executable, __file__, args.bundle, str(args.film), "--measure", kind]
    command += ["--frames", str(args.frames), "--segment", str(args.segment)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(args: argparse.Namespace) -> dict[str, float]:
    """One run of a kind. Seconds are from the opened source to the finished file."""
    threads = os.cpu_count() or 1
    excerpt = Excerpt(frames=args.frames)
    options = Options(encoding=Encoding(threads=1), excerpt=excerpt, segment=args.segment)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, closing(open_source(args.film)) as source:
        target = Path(folder) / "out.mkv"
        if args.measure == "cluster":
            with Cluster(args.bundle, address="local", cpus=threads) as cluster:
                begun = time.perf_counter()
                cluster.restore_source(source, target, options)
                return {"seconds": time.perf_counter() - begun, "seconds_to_start_ray": begun - started}
        with Runtime(args.bundle, threads=threads) as runtime:
            begun = time.perf_counter()
            if args.measure == "local":
                made = restore_source(source, target, runtime, options)
                return {"seconds": time.perf_counter() - begun, "outputs": made.frames_out}
            reader = Reader(source, excerpt, Scan(), None)
            found = [piece for piece in pieces(reader, options, runtime, ()) if piece]
            return {
                "seconds": time.perf_counter() - begun,
                "segments": len(found),
                "outputs_thrown_away": sum(piece.first for piece in found),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("film", type=Path)
    parser.add_argument("--segments", type=int, default=6, help="how many are timed")
    parser.add_argument("--hours", type=float, default=2, help="length of the simulated film")
    parser.add_argument("--overhead", action="store_true", help="measure what a cluster of one worker costs")
    parser.add_argument("--frames", type=int, default=300, help="how many of the film are restored, with --overhead")
    parser.add_argument("--segment", type=int, default=120, help="outputs in a segment, with --overhead")
    parser.add_argument("--rounds", type=int, default=3, help="how often it is measured, with --overhead")
    parser.add_argument("--measure", choices=MEASURED, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args)))
    else:
        print(json.dumps(overhead(args) if args.overhead else scaling(args), indent=1))


if __name__ == "__main__":
    main()
