"""Work on many files, shared among processes."""

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> list[Result]:
    """Apply `work` to every item, in `workers` new processes or, with 0, in this one; results are in order.

    Raises what `work` raises. Functions, items and results must be picklable.
    """
    if not workers:
        return [work(item) for item in items]
    # Forked processes would inherit locks that torch's and OpenCV's threads may hold.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        return list(pool.map(work, items))
