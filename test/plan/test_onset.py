"""Onsets of events, step by step."""

import math

import pytest

from saccade_ros.plan.onset import OnsetDetector, schmitt_trigger

S = 10**9


@pytest.mark.parametrize(
    ("on", "novelty", "expected"),
    [
        (False, 0.49, False),
        (False, 0.50, True),
        (True, 0.49, True),
        (True, 0.25, True),
        (True, 0.24, False),
        (True, math.nan, True),
        (False, math.nan, False),
    ],
)
def test_hysteresis(on, novelty, expected):
    assert schmitt_trigger(on, novelty, tau=0.5, hysteresis=0.5) == expected


def onsets(series: list[tuple[float, float]], hysteresis: float = 0.5) -> list[float]:
    detector = OnsetDetector()
    return [t for t, novelty in series if detector.detect(novelty, 0.5, hysteresis, round(t * S))]


def test_novelty_that_trembles_about_tau_is_one_event():
    assert onsets([(0.1 * i, 0.45 + 0.1 * (i % 2)) for i in range(100)]) == [0.1]


def test_novelty_that_falls_back_at_each_encode_is_one_event():
    """A pan: the gate opens, novelty is nothing again, and grows until the next time."""
    assert onsets([(0.1 * i, (0.0, 0.2, 0.4, 0.6)[i % 4]) for i in range(100)]) == [pytest.approx(0.3)]


def test_event_after_more_than_the_quiet_time_is_another():
    assert onsets([(0.0, 0.6), (0.5, 0.0), (1.0, 0.6), (1.5, 0.0), (2.1, 0.6)]) == [0.0, 2.1]


def test_first_tubelet_of_an_epoch_is_no_event():
    assert onsets([(0.0, math.nan), (0.5, 0.1)]) == []
