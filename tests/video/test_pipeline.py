"""Reading, restoring and writing at the same time."""

import threading
import time
from collections.abc import Iterator

import pytest

from zsm.runtime.video import pipeline
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


def test_a_failed_run_waits_for_what_is_being_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller then removes it, or another run begins: the writer mustn't go on."""
    monkeypatch.setattr(pipeline, "PATIENCE", 0)
    writing, written = threading.Event(), []

    def restoring(items: Iterator[int]) -> Iterator[int]:
        yield next(items)
        writing.wait()
        raise ValueError("broken")

    def write_slowly(item: int) -> None:
        writing.set()
        time.sleep(0.3)
        written.append(item)

    with pytest.raises(ValueError, match="broken"):
        run(range(3), restoring, write_slowly, Meter())
    assert written == [0]


def test_a_reader_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "PATIENCE", 0)
    data = threading.Event()

    def reading() -> Iterator[int]:
        yield 0
        data.wait()

    def fail(item: int) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run(reading(), lambda items: items, fail, Meter())
    data.set()
