"""The choice of tau: what is held out, and when a promise breaks."""

import math

import numpy as np
import pytest
from drawn_trace import trace_of

from saccade_ros.studies.calibration import largest_tau, rank_correlation, split


def test_several_recordings_are_held_out_whole_and_one_by_its_last_third():
    traces = [trace_of([0.0] * 9) for _ in range(4)]
    assert [len(part) for part in split(traces)] == [3, 1]
    (first,), (last,) = split(traces[:1])
    assert (len(first), len(last), last.stamps_ns[0]) == (6, 3, 6 * 10**9)


def point(threshold: float, below: float, reused: int = 1000) -> dict:
    return {"threshold": threshold, "tuning": {"below": below, "risk": (below * reused + 1) / (reused + 1)}}


def test_tau_is_the_last_before_the_promise_breaks():
    curve = [point(0.1, 0.0), point(0.2, 0.03), point(0.3, 0.06), point(0.4, 0.01)]
    chosen = largest_tau(curve, 0.05)
    assert chosen is not None
    assert chosen["threshold"] == 0.2
    assert largest_tau(curve, 0.02)["threshold"] == 0.1  # type: ignore[index]
    assert largest_tau(curve[2:], 0.05) is None


def test_few_reused_embeddings_promise_nothing_however_good():
    assert largest_tau([point(0.1, 0.0, reused=10)], 0.05) is None
    assert largest_tau([point(0.1, 0.0, reused=19)], 0.05) is not None


def test_rank_correlation_is_of_ranks_alone():
    x = np.array([0.1, 0.2, 0.3, 0.9])
    assert rank_correlation(np.stack([x, x**3], axis=1)) == pytest.approx(1.0)
    assert rank_correlation(np.stack([x, -x], axis=1)) == pytest.approx(-1.0)
    assert math.isnan(rank_correlation(np.zeros((2, 2))))
