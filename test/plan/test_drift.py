"""CUSUM, hysteresis and onsets, step by step."""

import math

import pytest

from saccade_ros.plan.drift import OnsetDetector, accumulate_drift, is_excited

S = 10**9


def test_what_exceeds_the_allowance_adds_up_in_units_of_tau():
    drift = 0.0
    for expected in (0.5, 1.0, 1.5):
        drift = accumulate_drift(drift, novelty=0.3, tau=0.5, allowance=0.1)
        assert drift == pytest.approx(expected)


def test_calm_takes_drift_away_but_never_below_zero():
    assert accumulate_drift(0.25, novelty=0.0, tau=0.5, allowance=0.1) == pytest.approx(0.15)
    assert accumulate_drift(0.05, novelty=0.0, tau=0.5, allowance=0.1) == 0.0


def test_change_within_the_allowance_never_drifts():
    drift = 0.0
    for _ in range(10_000):
        drift = accumulate_drift(drift, novelty=0.049, tau=0.5, allowance=0.1)
    assert drift == 0.0


def test_nothing_drifts_where_everything_is_encoded():
    assert accumulate_drift(1.0, novelty=0.3, tau=0.0, allowance=0.1) == 0.0


@pytest.mark.parametrize(
    ("excited", "novelty", "expected"),
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
def test_hysteresis(excited, novelty, expected):
    assert is_excited(excited, novelty, tau=0.5, hysteresis=0.5) == expected


def onsets(series: list[tuple[float, float]], hysteresis: float = 0.5) -> list[float]:
    detector = OnsetDetector(quiet_ns=S)
    return [t for t, novelty in series if detector.sees_onset(novelty, 0.5, hysteresis, round(t * S))]


def test_novelty_that_trembles_about_tau_is_one_event():
    assert onsets([(0.1 * i, 0.45 + 0.1 * (i % 2)) for i in range(100)]) == [0.1]


def test_novelty_that_falls_back_at_each_encode_is_one_event():
    """A pan: the gate opens, novelty is nothing again, and grows until the next time."""
    assert onsets([(0.1 * i, (0.0, 0.2, 0.4, 0.6)[i % 4]) for i in range(100)]) == [pytest.approx(0.3)]


def test_event_after_more_than_the_quiet_time_is_another():
    assert onsets([(0.0, 0.6), (0.5, 0.0), (1.0, 0.6), (1.5, 0.0), (2.1, 0.6)]) == [0.0, 2.1]


def test_first_tubelet_of_an_epoch_is_no_event():
    assert onsets([(0.0, math.nan), (0.5, 0.1)]) == []
