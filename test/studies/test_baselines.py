"""Gates replayed over a trace drawn by hand, and what their choices are worth."""

import math

import numpy as np
import pytest
from scenes import frames_of, textured, tiny_config

from saccade_ros.config import GateConfig
from saccade_ros.pipeline import Pipeline
from saccade_ros.studies.baselines import match_count, pixel_gate, previous_gate, score
from saccade_ros.studies.calibration import largest_tau, split
from saccade_ros.studies.gates import compare_outcome
from saccade_ros.studies.trace import Trace, common_centre, record
from saccade_ros.vision.preprocess import tubelet_pixels

WINDOW = 1
GATE = GateConfig(max_skip_s=0.0)


def trace_of(values: list[float], events: tuple[int, ...] = (), epochs: list[int] | None = None) -> Trace:
    """One patch of one value, embeddings on a circle, pictures as bright as the value; a tubelet a second."""
    v = np.array(values, np.float32)
    return Trace(
        "by hand",
        v[:, None, None],
        np.stack([np.cos(v), np.sin(v)], axis=1),
        np.round(v * 100).astype(np.uint8)[:, None, None],
        np.arange(len(v)) * 10**9,
        np.array(epochs or [0] * len(v)),
        events,
    )


def test_warm_up_is_the_window_of_each_epoch():
    trace = trace_of([0.0] * 8, epochs=[0, 0, 0, 0, 0, 1, 1, 1])
    assert trace.warm(1).tolist() == [True, True, False, False, False, True, True, False]


def test_pixel_gate_compares_with_the_last_encoded_and_previous_gate_with_the_last():
    """A drift: each step is 0.1, so that only what adds up notices."""
    trace = trace_of([1.0, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5])
    assert pixel_gate(trace, GATE, WINDOW)(19.0).tolist() == [True, True, False, True, False, True, False]
    assert previous_gate(trace, GATE, WINDOW)(0.15).tolist() == [True, True] + [False] * 5


def test_staleness_bounds_the_simple_gates_too():
    trace = trace_of([1.0] * 8)
    encoded = pixel_gate(trace, GateConfig(max_skip_s=3.0), WINDOW)(1.0)
    assert np.flatnonzero(encoded).tolist() == [0, 1, 4, 7]


def test_threshold_is_found_that_encodes_as_many_as_asked():
    rng = np.random.default_rng(0)
    trace = trace_of(list(1 + rng.random(200)))
    for count in (20, 60, 120):
        _, encoded = match_count(previous_gate(trace, GATE, WINDOW), count, 1e-5, 10.0)
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
    assert s.reused_p5 == pytest.approx(0.0, abs=1e-6)


def test_always_encoding_is_perfect():
    s = score(trace_of([0.0, 1.0, 2.0, 3.0], events=(2,)), np.ones(4, bool), np.zeros(2, np.float32), WINDOW)
    assert (s.rate, s.mean, s.worst, s.reused_p5, s.latency_s, s.staleness_s_max) == (1, 1, 1, 1, 0, 0)


def test_event_that_is_never_noticed_costs_the_rest_of_the_trace():
    s = score(trace_of([0.0] * 6, events=(3,)), np.arange(6) < 2, np.ones(2, np.float32), WINDOW)
    assert s.latency_s == 2.0


def test_trace_no_longer_than_the_window_is_refused():
    with pytest.raises(ValueError, match="give a longer one"):
        score(trace_of([0.0, 1.0]), np.ones(2, bool), np.zeros(2, np.float32), WINDOW)


def test_several_recordings_are_held_out_whole_and_one_by_its_last_third():
    traces = [trace_of([0.0] * 9) for _ in range(4)]
    assert [len(part) for part in split(traces)] == [3, 1]
    (first,), (last,) = split(traces[:1])
    assert (len(first), len(last), last.stamps_ns[0]) == (6, 3, 6 * 10**9)


def test_centre_counts_each_recording_once_and_no_warm_up():
    short, long = trace_of([math.pi, math.pi, 0.0]), trace_of([0.0, 0.0] + [math.pi / 2] * 50)
    assert common_centre([short, long], WINDOW) == pytest.approx([0.5, 0.5], abs=1e-6)


def point(threshold: float, tuning: float, held_out: float) -> dict:
    return {"threshold": threshold, "tuning": {"p5": tuning}, "held_out": {"p5": held_out}}


def test_tau_is_the_last_before_the_promise_breaks_in_either_part():
    curve = [point(0.1, 1.0, 1.0), point(0.2, 0.99, 0.985), point(0.3, 0.97, 0.99), point(0.4, 0.99, 0.99)]
    chosen = largest_tau(curve, 0.98)
    assert chosen is not None
    assert chosen["threshold"] == 0.2
    assert largest_tau(curve, 0.999)["threshold"] == 0.1  # type: ignore[index]
    assert largest_tau(curve[2:], 0.98) is None


@pytest.mark.parametrize(
    ("mean", "p5", "expected"),
    [(0.9, 0.8, "equal"), (0.91, 0.8, "better"), (0.9, 0.79, "worse"), (0.91, 0.79, "mixed")],
)
def test_outcome_is_against_the_better_of_the_two(mean, p5, expected):
    gates = {
        "surprise": {"mean": mean, "p5": p5},
        "pixel difference": {"mean": 0.9, "p5": 0.7},
        "previous tubelet": {"mean": 0.5, "p5": 0.8},
    }
    assert compare_outcome(gates) == expected


def test_trace_is_the_ungated_stream_and_keeps_what_gates_are_judged_by():
    scene, cut = textured(), textured(seed=1)
    frames = list(frames_of([scene] * 8 + [cut] * 8))
    config = tiny_config(gate=GateConfig(tau=10.0))
    pipeline = Pipeline(config)
    trace = record("scene", frames, config, pipeline.backend, events_ns=(frames[8].stamp_ns,))
    ungated = Pipeline(tiny_config(gate=GateConfig(enabled=False)), pipeline.backend).open_stream()
    expected = [result.vector for _, result in ungated.run(frames)]
    assert np.array_equal(trace.vectors, np.stack(expected))
    assert trace.events == (4,)
    assert trace.stamps_ns.tolist() == [frame.stamp_ns for frame in frames[1::2]]
    pixels = tubelet_pixels(cut, cut, pipeline.backend.info.input_size, config.vision.fit)
    assert np.array_equal(trace.features[4], pipeline.backend.embed(pixels).features)
    assert trace.grey.shape == (8, 128, 128)
