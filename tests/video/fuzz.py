"""Restore mutated videos, one JSON line each: `python fuzz.py FOLDER FIRST COUNT`.

FOLDER holds healthy videos. File number n is one of them with a mutation that n determines. Anything but a result that
can be read back, or a VideoError, is a bug; so is using more than LIMIT bytes of memory or SECONDS of time.
"""

import json
import random
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av

from zsm.errors import VideoError
from zsm.runtime.video import Encoding, Restorer, read_frames, restore

LIMIT = 3 * 2**30
SECONDS = 20


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Damage of the kinds that happen: bits, blocks, an early end, bytes lost or inserted, headers above all."""
    damaged = bytearray(data)
    span = len(damaged) if chance.random() < 0.6 else min(len(damaged), 600)
    kind = chance.choice(["bytes", "zeros", "noise", "truncate", "delete", "insert", "swap"])
    begin = chance.randrange(span)
    length = chance.choice([1, 4, 16, 200, 2000])
    if kind == "bytes":
        for _ in range(chance.choice([1, 3, 20])):
            damaged[chance.randrange(span)] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
    elif kind == "zeros":
        damaged[begin : begin + length] = bytes(len(damaged[begin : begin + length]))
    elif kind == "noise":
        damaged[begin : begin + length] = chance.randbytes(len(damaged[begin : begin + length]))
    elif kind == "truncate":
        del damaged[begin:]
    elif kind == "delete":
        del damaged[begin : begin + length]
    elif kind == "insert":
        damaged[begin:begin] = chance.randbytes(length)
    else:
        other = chance.randrange(len(damaged))
        damaged[begin : begin + length], damaged[other : other + length] = (
            damaged[other : other + length],
            damaged[begin : begin + length],
        )
    return bytes(damaged)


def outcome(path: Path, target: Path, restorer: Restorer) -> dict[str, Any]:
    """Restore a file; returns the number of frames, or the message."""
    try:
        summary = restore(path, target, restorer, encoding=Encoding(preset="ultrafast"), overwrite=True)
    except VideoError as error:
        message = str(error)
        if not message or target.exists():
            raise RuntimeError("no message, or a file left behind") from error
        return {"error": message}
    assert sum(1 for _ in read_frames(target)) == summary.frames_out
    target.unlink()
    return {"frames": summary.frames_out, "notes": summary.notes}


def main(folder: Path, first: int, count: int) -> None:
    """Go through the numbers."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tests.video.conftest import REPEATER

    def late(number: int, frame: Any) -> Iterator[None]:
        raise TimeoutError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    av.logging.set_level(None)
    healthy = sorted(path for path in folder.iterdir() if path.stem == "healthy")
    for number in range(first, first + count):
        chance = random.Random(number)
        original = healthy[number % len(healthy)]
        path = folder / f"mutated{original.suffix}"
        path.write_bytes(mutate(original.read_bytes(), chance))
        begin = time.monotonic()
        signal.alarm(SECONDS)
        result = outcome(path, folder / "result.mkv", REPEATER)
        signal.alarm(0)
        seconds = round(time.monotonic() - begin, 2)
        print(json.dumps({"number": number, "seconds": seconds, **result}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
