import math

import pytest

from zsm.errors import ArgumentError
from zsm.training.schedule import Schedule


def test_the_rate_follows_half_a_cosine() -> None:
    schedule = Schedule(steps=1000, learning_rate=4e-4, final_learning_rate=1e-7)
    assert schedule.rate(0, 0) == pytest.approx(4e-4)
    assert schedule.rate(1000, 0) == pytest.approx(1e-7)
    assert schedule.rate(500, 0) == pytest.approx((4e-4 + 1e-7) / 2)
    expected = 1e-7 + (4e-4 - 1e-7) * (1 + math.cos(math.pi / 4)) / 2
    assert schedule.rate(250, 0) == pytest.approx(expected)


def test_the_rate_restarts_each_period() -> None:
    schedule = Schedule(steps=600, period=150)
    assert schedule.rate(150, 0) == schedule.rate(0, 0) == pytest.approx(4e-4)
    assert schedule.rate(149, 0) < 1e-6
    assert schedule.rate(160, 0) == schedule.rate(10, 0)
    assert schedule.progress(300, 0) == 0.5


def test_the_warm_up_is_linear() -> None:
    schedule = Schedule(steps=10**9, learning_rate=1.0, final_learning_rate=0.0, warm_up=3)
    assert [schedule.rate(step, 0) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_in_a_run_of_minutes_the_rate_follows_the_time() -> None:
    schedule = Schedule(minutes=2, learning_rate=1.0, final_learning_rate=0.0)
    assert schedule.rate(12345, 60) == pytest.approx(0.5)
    assert [schedule.progress(0, seconds) for seconds in (0, 60, 120, 150)] == [0, 0.5, 1, 1]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"learning_rate": 1e-8}, "final_learning_rate is 1e-07 and learning_rate 1e-08"),
        ({"warm_up": -1}, "warm_up is -1"),
        ({"period": -2}, "period is -2"),
        ({"minutes": 0.0}, "minutes is 0.0"),
        ({"minutes": 5.0, "period": 10}, "can't be combined"),
    ],
)
def test_invalid_settings_are_rejected(values: dict[str, float], named: str) -> None:
    with pytest.raises(ArgumentError, match=named):
        Schedule(**values)  # type: ignore[arg-type]
