"""The choice of tau: what is held out, and when a promise breaks."""

from drawn_trace import trace_of

from saccade_ros.studies.calibration import largest_tau, split


def test_several_recordings_are_held_out_whole_and_one_by_its_last_third():
    traces = [trace_of([0.0] * 9) for _ in range(4)]
    assert [len(part) for part in split(traces)] == [3, 1]
    (first,), (last,) = split(traces[:1])
    assert (len(first), len(last), last.stamps_ns[0]) == (6, 3, 6 * 10**9)


def point(threshold: float, tuning: float, held_out: float) -> dict:
    return {"threshold": threshold, "tuning": {"p5": tuning}, "held_out": {"p5": held_out}}


def test_tau_is_the_last_before_the_promise_breaks_in_either_part():
    curve = [point(0.1, 1.0, 1.0), point(0.2, 0.99, 0.985), point(0.3, 0.97, 0.99), point(0.4, 0.99, 0.99)]
    chosen = largest_tau(curve, 0.98)
    assert chosen is not None
    assert chosen["threshold"] == 0.2
    assert largest_tau(curve, 0.999)["threshold"] == 0.1  # type: ignore[index]
    assert largest_tau(curve[2:], 0.98) is None
