"""Which skipped tubelets are evaluated, and fidelity by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade_ros.plan.shadow import LEAST_FRESH, FidelityMonitor, is_shadowed


def vector(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@given(st.floats(0, 1), st.integers(1, 2000))
def test_evaluations_are_a_fraction_of_the_skipped_and_no_more(rate, skipped):
    evaluated = sum(is_shadowed(n, rate) for n in range(1, skipped + 1))
    assert abs(evaluated - rate * skipped) <= 1 + np.log2(skipped + 1)


def test_rate_zero_evaluates_none_and_rate_one_all():
    assert not any(is_shadowed(n, 0.0) for n in range(100))
    assert all(is_shadowed(n, 1.0) for n in range(100))


def test_figures_by_hand():
    monitor = FidelityMonitor(vector(0, 0))
    for age_s in (0.0, 0.5, 1.0):
        monitor.record_age(age_s)
    monitor.record_shadow(reused=vector(1, 0), fresh=vector(2, 0))
    monitor.record_shadow(reused=vector(1, 0), fresh=vector(0, 1))
    monitor.refused, monitor.delays = 3, 4
    state = monitor.state()
    assert (state["shadow_evaluations"], state["fidelity_mean"], state["fidelity_worst"]) == (2, 0.5, 0.0)
    assert state["fidelity_p5"] == pytest.approx(0.05)
    assert (state["staleness_s_mean"], state["staleness_s_max"]) == (0.5, 1.0)
    assert (state["shadow_refused"], state["shadow_delays"]) == (3, 4)
    assert state["fidelity_centre"] == "calibrated"


def test_running_mean_serves_once_there_are_enough():
    monitor = FidelityMonitor(None)
    monitor.record_shadow(vector(1, 0), vector(1, 0))
    assert "fidelity_mean" not in monitor.state(), "one embedding has no mean to speak of"
    for n in range(LEAST_FRESH):
        monitor.record_fresh(vector(n, 1))
    assert monitor.state()["fidelity_mean"] == 1.0
    assert monitor.state()["fidelity_centre"] == "running mean"
