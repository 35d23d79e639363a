"""Gates replayed over a trace drawn by hand, and what their choices are worth."""

import math

import numpy as np
import pytest
from drawn_trace import trace_of

from saccade_ros.config import GateConfig
from saccade_ros.plan.change import PatchResponse
from saccade_ros.studies.baselines import RANGES, Replay, gate_replay, match_count, oracle, score
from saccade_ros.studies.trace import Trace

WINDOW = 1
CENTRE = np.zeros(2, np.float32)


def replay_of(trace: Trace, policy: str, max_skip_s: float = 0.0) -> Replay:
    config = GateConfig(policy=policy, max_skip_s=max_skip_s, event_change=10.0)
    response = PatchResponse(np.zeros(trace.features.shape[2], np.float32), 0.0)
    return gate_replay(trace, config, response, CENTRE, WINDOW)


def test_oracle_encodes_as_seldom_as_the_target_allows():
    trace = trace_of([0.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5])
    encoded = oracle(trace, CENTRE, WINDOW, float(np.cos(0.25)))
    assert encoded.tolist() == [True, True, False, False, True, False, False, False]


def test_pixel_gate_compares_with_the_last_encoded_and_previous_gate_with_the_last():
    """A drift: each step is 0.1, so that only what adds up notices."""
    trace = trace_of([1.0, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5])
    assert replay_of(trace, "pixels")(19.0 / 255).tolist() == [True, True, False, True, False, True, False]
    assert replay_of(trace, "previous")(0.15).tolist() == [True, True] + [False] * 5


def test_staleness_bounds_the_simple_gates_too():
    trace = trace_of([1.0] * 8)
    encoded = replay_of(trace, "pixels", max_skip_s=3.0)(1.0)
    assert np.flatnonzero(encoded).tolist() == [0, 1, 4, 7]


def test_threshold_is_found_that_encodes_as_many_as_asked():
    rng = np.random.default_rng(0)
    trace = trace_of(list(1 + rng.random(200)))
    for count in (20, 60, 120):
        _, encoded = match_count(replay_of(trace, "previous"), count, *RANGES["previous"])
        assert abs(int(encoded.sum()) - count) <= 1


def test_score_by_hand():
    right_angle = math.pi / 2
    trace = trace_of([0.0, 0.0, right_angle, right_angle, right_angle, 0.0], events=(2,))
    encoded = np.array([True, True, False, True, False, False])
    s = score(trace, encoded, np.zeros(2, np.float32), WINDOW)
    # judged are tubelets 2..5, which show the embeddings of 1, 3, 3, 3: cosines 0, 1, 1, 0
    assert (s.encoded, s.rate) == (1, 0.25)
    assert (s.mean, s.worst) == (pytest.approx(0.5), pytest.approx(0.0, abs=1e-6))
    assert s.latency_s == 1.0
    assert (s.staleness_s_mean, s.staleness_s_max) == (1.0, 2.0)
    assert (s.reused, s.below) == (3, 2)


def test_always_encoding_is_perfect():
    s = score(trace_of([0.0, 1.0, 2.0, 3.0], events=(2,)), np.ones(4, bool), np.zeros(2, np.float32), WINDOW)
    assert (s.rate, s.mean, s.worst, s.reused, s.latency_s, s.staleness_s_max) == (1, 1, 1, 0, 0, 0)


def test_event_that_is_never_noticed_costs_the_rest_of_the_trace():
    s = score(trace_of([0.0] * 6, events=(3,)), np.arange(6) < 2, np.ones(2, np.float32), WINDOW)
    assert s.latency_s == 2.0


def test_trace_no_longer_than_the_window_is_refused():
    with pytest.raises(ValueError, match="give a longer one"):
        score(trace_of([0.0, 1.0]), np.ones(2, bool), np.zeros(2, np.float32), WINDOW)
