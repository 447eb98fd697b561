"""Work on many files, shared among processes."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from threading import Thread
from typing import TypeVar

import cv2
from threadpoolctl import threadpool_limits

from zsm.errors import TrainingError

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> list[Result]:
    """Apply `work` to every item, in `workers` new processes or, with 0, in this one; results are in order.

    Raises what `work` raises, and TrainingError if a process dies. Functions, items and results must be picklable.
    """
    if not workers:
        return [work(item) for item in items]
    with ProcessPoolExecutor(workers, clean_processes(), begin_worker) as pool:
        try:
            return list(pool.map(work, items))
        except BrokenProcessPool as error:
            raise killed(workers) from error


def clean_processes() -> BaseContext:
    """Return a way to start processes that inherit nothing from this one.

    A forked process would inherit locks that threads hold, and garbage that it can't collect: a video decoder waits
    for its threads, which only this process has.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["zsm.training.data"])
    return context


def killed(workers: int) -> TrainingError:
    """What to say when one of so many processes died."""
    return TrainingError(
        f"one of {workers} processes died; unless its own message is above, it was probably killed for lack of memory, "
        "or of shared memory (in Docker: --shm-size): lower run.workers (or --workers)"
    )


def begin_worker(_worker: int = 0) -> None:
    """What every worker runs first.

    BLAS and OpenCV get one thread: a thread per core in every process makes them many times slower. And the worker ends
    with the process that it works for.
    """
    Thread(target=_end_with_parent, daemon=True).start()
    threadpool_limits(1)
    cv2.setNumThreads(1)


def _end_with_parent() -> None:
    """Wait until the process that this one works for has ended, be it killed, and end.

    What the system calls the parent, and torch watches, is the fork server, which lives as long as its workers.
    """
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
