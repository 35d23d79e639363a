"""Drift: the CUSUM step by step, and what of a tubelet counts."""

import pytest

from saccade_ros.plan.drift import accumulate_drift, drifting_change


def test_what_exceeds_the_allowance_adds_up_in_units_of_tau():
    drift = 0.0
    for expected in (0.5, 1.0, 1.5):
        drift = accumulate_drift(drift, change=0.3, tau=0.5)
        assert drift == pytest.approx(expected)


def test_calm_takes_drift_away_but_never_below_zero():
    assert accumulate_drift(0.25, change=0.0, tau=0.5) == pytest.approx(0.15)
    assert accumulate_drift(0.05, change=0.0, tau=0.5) == 0.0


def test_change_within_the_allowance_never_drifts():
    drift = 0.0
    for _ in range(10_000):
        drift = accumulate_drift(drift, change=0.049, tau=0.5)
    assert drift == 0.0


def test_nothing_drifts_where_everything_is_encoded():
    assert accumulate_drift(1.0, change=0.3, tau=0.0) == 0.0


@pytest.mark.parametrize(
    ("novelty", "uncompensated", "counts"),
    [
        (0.3, 0.3, 0.3),  # nothing but change of the scene
        (0.0, 1.0, 0.2),  # nothing but illumination: a fifth of it,
        (0.0, 9.0, 0.375),  # but never tau by itself
        (0.3, 1.0, 0.3),
    ],
)
def test_change_of_illumination_drifts_by_a_part_of_its_size(novelty, uncompensated, counts):
    assert drifting_change(novelty, uncompensated, tau=0.5) == pytest.approx(counts)
