"""Onsets of events, step by step."""

import pytest

from saccade_ros.config import GateConfig
from saccade_ros.plan.onset import OnsetDetector, schmitt_trigger

S = 10**9
GATE = GateConfig(event_change=0.5, hysteresis=0.5)


@pytest.mark.parametrize(
    ("on", "change", "expected"),
    [(False, 0.49, False), (False, 0.50, True), (True, 0.49, True), (True, 0.25, True), (True, 0.24, False)],
)
def test_hysteresis(on, change, expected):
    assert schmitt_trigger(on, change, threshold=0.5, hysteresis=0.5) == expected


def onsets(series: list[tuple[float, float]]) -> list[float]:
    detector, told = OnsetDetector(), []
    for t, change in series:
        told += [t] if detector.propose(change, GATE, round(t * S)) else []
        detector.commit()
    return told


def test_change_that_trembles_about_the_threshold_is_one_event():
    assert onsets([(0.1 * i, 0.45 + 0.1 * (i % 2)) for i in range(100)]) == [0.1]


def test_change_that_falls_back_at_each_encode_is_one_event():
    """A pan: the gate opens, change is nothing again, and grows until the next time."""
    assert onsets([(0.1 * i, (0.0, 0.2, 0.4, 0.6)[i % 4]) for i in range(100)]) == [pytest.approx(0.3)]


def test_event_after_more_than_the_quiet_time_is_another():
    assert onsets([(0.0, 0.6), (0.5, 0.0), (1.0, 0.6), (1.5, 0.0), (2.1, 0.6)]) == [0.0, 2.1]


def test_what_is_proposed_and_not_committed_is_forgotten():
    detector = OnsetDetector()
    assert [detector.propose(0.6, GATE, t * S) for t in (1, 2)] == [True, True]
    detector.commit()
    assert not detector.propose(0.6, GATE, 2 * S)
