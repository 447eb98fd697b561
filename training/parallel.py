"""Work on many files, shared among processes."""

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

import cv2
import numpy as np  # noqa: F401  # so that its BLAS is there to be limited
from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> list[Result]:
    """Apply `work` to every item, in `workers` new processes or, with 0, in this one; results are in order.

    Raises what `work` raises. Functions, items and results must be picklable.
    """
    if not workers:
        return [work(item) for item in items]
    # Forked processes would inherit locks that torch's and OpenCV's threads may hold.
    with ProcessPoolExecutor(workers, get_context("spawn"), _use_one_thread) as pool:
        return list(pool.map(work, items))


def _use_one_thread() -> None:
    """Keep libraries from starting a thread per core in every process, which takes many times longer."""
    threadpool_limits(1)
    cv2.setNumThreads(1)
