"""Builds, checks and measures zsm on an NVIDIA GPU; started by gpu_report.sh.

Every part is a process with a time limit: one that fails, hangs or crashes costs only itself. A part's measurements are
the lines of JSON that it prints. They go to results.jsonl as they come, all other output goes to log.txt, and
summary.txt is written on every exit. The exit status is 0 if all that could run has passed, 1 if not or if there is no
GPU, 130 if it was interrupted.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from scripts.gpu_parts import BUILD, NEEDS, ROOT, Need, Part, parts

LIMIT = 540
LONG_LIMIT = 5400
LEAST = 10
"""Seconds without which no command is started."""
GRACE = 5
"""Seconds that a command gets to end by itself."""


@dataclass
class Outcome:
    """How a part ended."""

    status: str
    """passed, failed, timed out, skipped or interrupted."""
    why: str = ""
    seconds: float = 0
    results: list[dict[str, Any]] = field(default_factory=list)
    last: str = ""
    """The last line of other output."""


class Report:
    """Runs parts, and writes what they measure."""

    def __init__(self, out: Path, limit: float, needs: Mapping[str, Need]) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._needs = needs
        self._begin = time.monotonic()
        self._end = self._begin + limit
        self._lines = (out / "results.jsonl").open("w")
        self._log = (out / "log.txt").open("w")
        self._summary = out / "summary.txt"
        self._outcomes: dict[str, Outcome] = {}
        source = str(ROOT / "src")
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1",
            "ZSM_PLUGIN_DIR": str(BUILD / "lib"),
        }

    def run(self, chosen: Sequence[Part]) -> int:
        """Run parts; returns the exit status."""
        status = 0
        try:
            self._announce(chosen)
            for part in chosen:
                self._outcomes[part.name] = Outcome("interrupted")
                self._run_part(part, self._outcomes[part.name])
        except KeyboardInterrupt:
            status = 130
        finally:
            self._finish(chosen)
        bad = any(outcome.status in ("failed", "timed out") for outcome in self._outcomes.values())
        return status or int(bad or not self._needs["GPU"].there())

    def _record(self, part: str, values: Mapping[str, Any]) -> None:
        """Write a line of JSON."""
        self._lines.write(json.dumps({"part": part, "at": round(time.monotonic() - self._begin, 1), **values}) + "\n")
        self._lines.flush()

    def _announce(self, chosen: Sequence[Part]) -> None:
        """Say what is missing, and what that leaves out."""
        self._say(f"Python: {sys.executable} {platform.python_version()}")
        for name, need in self._needs.items():
            dropped = [part.name for part in chosen if name in part.needs]
            if dropped and not need.made and not need.there():
                self._say(f"missing: {name} ({need.get}); leaves out: {', '.join(dropped)}")
                self._record("report", {"missing": name, "get": need.get, "leaves_out": dropped})

    def _run_part(self, part: Part, outcome: Outcome) -> None:
        self._say(f"== {part.name}: {part.what}")
        begin = time.monotonic()
        absent = [name for name in part.needs if not self._needs[name].there()]
        if absent:
            outcome.status, outcome.why = "skipped", f"needs {', '.join(absent)}"
        else:
            ends = [self._run_command(part, command, outcome) for command in part.commands]
            ends += [("failed", str(result["failed"])) for result in outcome.results if "failed" in result]
            outcome.status, outcome.why = next((end for end in ends if end[0] != "passed"), ends[0])
        outcome.seconds = round(time.monotonic() - begin, 1)
        self._record(part.name, {"status": outcome.status, "seconds": outcome.seconds, "why": outcome.why})

    def _run_command(self, part: Part, command: Sequence[str], outcome: Outcome) -> tuple[str, str]:
        """Run a command in a process group of its own; returns a status and the reason for it."""
        left = self._end - time.monotonic()
        if left < LEAST:
            return "skipped", "no time left"
        limit = min(part.limit, left)
        self._log.write(f"$ {' '.join(command)}\n")
        try:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            return "failed", str(error)
        reader = threading.Thread(target=self._read, args=[part, process.stdout, outcome], daemon=True)
        reader.start()
        try:
            code = process.wait(limit)
            reader.join(GRACE)
            return ("passed", "") if code == 0 else ("failed", f"exit status {code}: {outcome.last}")
        except subprocess.TimeoutExpired:
            return "timed out", f"after {limit:.0f} s"
        finally:
            end_group(process)
            reader.join(GRACE)

    def _read(self, part: Part, output: IO[str], outcome: Outcome) -> None:
        """Record what a command prints: its measurements, and the rest in the log."""
        with output:
            for line in output:
                result = as_result(line)
                if result is not None:
                    outcome.results.append(result)
                    self._record(part.name, result)
                    print(f"   {line.strip()}", flush=True)
                else:
                    outcome.last = line.strip() or outcome.last
                    self._log.write(line)
                    self._log.flush()

    def _say(self, text: str) -> None:
        print(text, flush=True)
        self._log.write(f"{text}\n")

    def _finish(self, chosen: Sequence[Part]) -> None:
        lines = []
        for part in chosen:
            outcome = self._outcomes.get(part.name, Outcome("not run"))
            why = f": {outcome.why}" if outcome.why else ""
            lines.append(f"{part.name:<24} {outcome.status:<12} {outcome.seconds:6.1f} s{why}")
            lines += [f"    {figure}" for result in outcome.results if (figure := as_figure(result))]
        text = "\n".join(lines)
        self._summary.write_text(text + "\n")
        print(f"\n{text}\n\nin {self._summary.parent}: summary.txt, results.jsonl, log.txt", flush=True)
        self._lines.close()
        self._log.close()


def end_group(process: "subprocess.Popen[str]") -> None:
    """End a process and all that it started in its group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def as_result(line: str) -> dict[str, Any] | None:
    """The measurement on a line of output, if it is one."""
    try:
        result = json.loads(line) if line.startswith("{") else None
    except json.JSONDecodeError:
        return None
    return result if isinstance(result, dict) else None


def as_figure(result: Mapping[str, Any]) -> str:
    """A measurement on one line, as far as it is one."""
    label = " ".join(str(result[key]) for key in ("size", "dtype", "name", "stage") if key in result)
    if "failed" in result:
        return f"{label}: failed: {result['failed']}"
    if "us" in result:
        return f"{label}: {result['us'][1]:.1f} us"
    if "milliseconds" in result:
        return f"{label}: {result['milliseconds']['median']:.2f} ms"
    if "best" in result:
        bounds = ", ".join(f"{times} x {bound}" for bound, times in result["times_lower_bounds"].items())
        others = ", ".join(f"{times} x faster than {name}" for name, times in result["times_faster_than"].items())
        return f"{label}: {result['best']} takes {bounds}; {others}"
    return f"{result['bandwidth_gb_s']} GB/s" if "bandwidth_gb_s" in result else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-report", metavar="FOLDER")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help=f"for everything (default: {LIMIT})")
    parser.add_argument("--long", action="store_true", help="also sanitizers, all tests, 4K and all architectures")
    args = parser.parse_args()
    programs = str(Path(sys.executable).parent)  # where pip installs cmake and ninja
    os.environ["PATH"] = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a shell's background jobs begin without SIGINT
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        report = Report(args.out.resolve(), args.limit or (LONG_LIMIT if args.long else LIMIT), NEEDS)
        return report.run(parts(Path(folder), long=args.long))


if __name__ == "__main__":
    sys.exit(main())
