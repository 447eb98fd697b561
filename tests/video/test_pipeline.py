"""Reading, restoring and writing at the same time."""

import threading
import time
from collections.abc import Iterator

import pytest

from zsm.runtime.video.pipeline import Meter, run


def test_nothing_runs_far_ahead() -> None:
    """Memory is bounded by the queues, whoever is slow."""
    read = written = ahead = 0

    def reading() -> Iterator[int]:
        nonlocal read
        for number in range(200):
            read += 1
            yield number

    def writing(item: int) -> None:
        nonlocal written, ahead
        ahead = max(ahead, read - written)
        if written < 20:
            time.sleep(0.005)
        written += 1

    run(reading(), lambda items: items, writing, Meter(), depth=2)
    assert written == 200
    # Two in each queue and one in the hands of each part.
    assert ahead <= 7


def test_order_is_kept() -> None:
    found: list[int] = []
    run(range(100), lambda items: (item * 2 for item in items), found.append, Meter())
    assert found == list(range(0, 200, 2))


@pytest.mark.parametrize("part", ["decode", "compute", "encode"])
def test_the_slow_part_is_named(part: str) -> None:
    def slowly(name: str) -> None:
        if name == part:
            time.sleep(0.02)

    def reading() -> Iterator[int]:
        for number in range(5):
            slowly("decode")
            yield number

    def restoring(items: Iterator[int]) -> Iterator[int]:
        for item in items:
            slowly("compute")
            yield item

    meter = Meter()
    run(reading(), restoring, lambda item: slowly("encode"), meter)
    assert meter.bottleneck() == part


@pytest.mark.parametrize("part", ["decode", "compute", "encode"])
def test_an_error_in_any_part_ends_all_of_them(part: str) -> None:
    def fail(name: str, number: int) -> None:
        if name == part and number == 3:
            raise ValueError(name)

    def reading() -> Iterator[int]:
        number = 0
        while True:
            fail("decode", number)
            yield number
            number += 1

    def restoring(items: Iterator[int]) -> Iterator[int]:
        for item in items:
            fail("compute", item)
            yield item

    with pytest.raises(ValueError, match=part):
        run(reading(), restoring, lambda item: fail("encode", item), Meter())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("zsm-")]
