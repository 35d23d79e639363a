"""Trust in an embedding that has lasted longer than is usual."""

import pytest

from saccade_ros.plan.ageing import POWER, RATE, Ageing

SECOND = 10**9


def settled(period_s: float) -> tuple[Ageing, int]:
    """An embedding a period, and the stamp of the last one."""
    ageing = Ageing()
    stamps = [round(n * period_s * SECOND) for n in range(80)]
    for stamp_ns in stamps:
        ageing.replace(stamp_ns)
    return ageing, stamps[-1]


def test_only_what_is_older_than_usual_is_trusted_less():
    ageing, last = settled(0.5)
    assert ageing.factor(last + SECOND // 10) == ageing.factor(last + SECOND // 2) == 1.0
    assert ageing.factor(last + 2 * SECOND) == pytest.approx(4**POWER)


def test_nothing_is_judged_while_nothing_is_usual():
    ageing = Ageing()
    assert ageing.factor(5 * SECOND) == 1.0
    ageing.replace(5 * SECOND)
    assert ageing.factor(500 * SECOND) == 1.0, "one embedding has not lasted yet"


def test_usual_is_a_running_mean_of_the_logarithms():
    ageing = Ageing()
    for stamp_ns in (0, SECOND, 9 * SECOND):
        ageing.replace(stamp_ns)
    usual_s = 8**RATE
    assert ageing.factor(9 * SECOND + 16 * SECOND) == pytest.approx((16 / usual_s) ** POWER)


def test_a_new_epoch_keeps_what_is_usual_and_measures_no_pause():
    ageing, last = settled(0.5)
    ageing.restart()
    assert ageing.factor(last + 100 * SECOND) == 1.0
    ageing.replace(last + 100 * SECOND)
    assert ageing.factor(last + 102 * SECOND) == pytest.approx(4**POWER)


def test_stamps_that_repeat_are_no_division_by_zero():
    ageing, last = settled(0.0)
    assert ageing.factor(last) == 1.0
    assert ageing.factor(last + SECOND) > 1.0
