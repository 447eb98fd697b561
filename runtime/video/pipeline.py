"""Reading, restoring and writing at the same time, each in its own thread, with short queues between them."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
POLL = 0.05
PATIENCE = 5.0
"""Seconds to wait for a reader that hangs, as in a pipe that nobody writes to, and for a writer that does, once Ctrl-C
has interrupted the wait. A part that is only busy mustn't be left behind: when Python ends while it is in OpenCV, the
process aborts."""


class AbandonedError(Exception):
    """Another part has failed."""


class Meter:
    """The time each part has spent working, as opposed to waiting for another."""

    def __init__(self) -> None:
        self.seconds = {"decode": 0.0, "compute": 0.0, "encode": 0.0}

    def time(self, part: str, items: Iterable[Item], *, sign: int = 1) -> Iterator[Item]:
        """Pass items on, and add the time that producing each takes to `part` (with sign=-1, subtract it)."""
        iterator = iter(items)
        while True:
            begin = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.seconds[part] += sign * (time.perf_counter() - begin)
            yield item

    def bottleneck(self) -> str:
        """The part that worked longest."""
        return max(self.seconds, key=lambda part: self.seconds[part])


class Failure:
    """The first error of any part."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.error: BaseException | None = None

    def set(self, error: BaseException) -> None:
        """Record an error, if it is the first."""
        with self._lock:
            if self.error is None and not isinstance(error, AbandonedError):
                self.error = error

    def check(self) -> None:
        """Raise AbandonedError if a part has failed."""
        if self.error is not None:
            raise AbandonedError


class Channel(Generic[Item]):
    """A short queue whose two ends give up when a part fails."""

    def __init__(self, size: int, failure: Failure) -> None:
        self._queue: queue.Queue[tuple[Item] | None] = queue.Queue(size)
        self._failure = failure

    def put(self, item: Item) -> None:
        """Add an item, once there is room."""
        self._put((item,))

    def finish(self) -> None:
        """Mark the end."""
        self._put(None)

    def __iter__(self) -> Iterator[Item]:
        while True:
            self._failure.check()
            try:
                boxed = self._queue.get(timeout=POLL)
            except queue.Empty:
                continue
            if boxed is None:
                return
            yield boxed[0]

    def _put(self, boxed: tuple[Item] | None) -> None:
        while True:
            self._failure.check()
            try:
                return self._queue.put(boxed, timeout=POLL)
            except queue.Full:
                continue


In = TypeVar("In")
Out = TypeVar("Out")


def run(
    read: Iterable[In],
    restore: Callable[[Iterator[In]], Iterable[Out]],
    write: Callable[[Out], None],
    meter: Meter,
    *,
    depth: int = 2,
) -> None:
    """Read, restore and write at the same time; the calling thread restores.

    Raises the first error of any part, after the others have stopped. Only a reader that hangs is left behind, and a
    writer that hangs if Ctrl-C interrupts the wait for it.
    """
    failure = Failure()
    incoming: Channel[In] = Channel(depth, failure)
    outgoing: Channel[Out] = Channel(depth, failure)

    def reading() -> None:
        for item in meter.time("decode", read):
            incoming.put(item)
        incoming.finish()

    def writing() -> None:
        for _ in meter.time("encode", map(write, meter.time("encode", outgoing, sign=-1))):
            pass

    def restoring() -> None:
        waited = meter.time("compute", incoming, sign=-1)
        for item in meter.time("compute", restore(waited)):
            outgoing.put(item)
        outgoing.finish()

    reader, writer = _Part(reading, failure), _Part(writing, failure)
    try:
        reader.start()
        writer.start()
        restoring()
        writer.ended.wait()
    except BaseException as error:
        failure.set(error)
    writer.wait()  # however long its current call takes: the caller removes or keeps what it writes
    reader.wait(PATIENCE)
    if failure.error is not None:
        raise failure.error


class _Part(threading.Thread):
    """A part that works in a thread of its own."""

    def __init__(self, work: Callable[[], None], failure: Failure) -> None:
        super().__init__(daemon=True, name=f"zsm-{work.__name__}")
        self._work = work
        self._failure = failure
        self.ended = threading.Event()

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._failure.set(error)
        finally:
            self.ended.set()

    def wait(self, seconds: float = threading.TIMEOUT_MAX) -> None:
        """Wait for the end, at most so many seconds, and at most PATIENCE after Ctrl-C, however often that comes.

        Not with `join` alone: before Python 3.13 a thread counts as ended once an exception has interrupted its `join`.
        """
        deadline = time.monotonic() + seconds
        while self.ident is not None:  # it has been started
            try:
                if self.ended.wait(max(deadline - time.monotonic(), 0)):
                    self.join()
                return
            except BaseException as error:  # Ctrl-C, or what another signal's handler raises
                self._failure.set(error)
                deadline = min(deadline, time.monotonic() + PATIENCE)
