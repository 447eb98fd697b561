"""The streams that clients have open."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from zsm.engine import Runtime
from zsm.errors import ArgumentError
from zsm.runtime import FrameStream, Pixels


class Streams:
    """Streams by the number of the client's sequence.

    Triton drops a sequence that was idle too long, and doesn't tell the model. It never has more than `most` active, so
    if more streams are open, the one that was idle longest belongs to a dropped sequence.
    """

    def __init__(self, runtime: Runtime, most: int) -> None:
        self._runtime = runtime
        self._most = most
        self._open: OrderedDict[int, FrameStream] = OrderedDict()

    def push(self, sequence: int, frames: Iterable[Any], *, start: bool, end: bool) -> list[Pixels]:
        """Add a sequence's next frames, and return the outputs that became final.

        `start` opens the sequence's stream, `end` finishes it. Raises ArgumentError if there is none, and the errors of
        `FrameStream.push`; an invalid frame leaves the stream as it was, unless `end` is set.
        """
        if start:
            self._open[sequence] = self._runtime.open_stream(to="host")
            while len(self._open) > self._most:
                self._open.popitem(last=False)
        stream = self._open.get(sequence)
        if stream is None:
            raise ArgumentError(f"sequence {sequence} isn't open: it was idle too long, or failed; start it again")
        self._open.move_to_end(sequence)
        try:
            outputs = [output for frame in frames for output in stream.push(frame)]
            return outputs + stream.finish() if end else outputs
        finally:
            if end:
                del self._open[sequence]
