"""What the trials of a benchmark say together: the rate kept up with, the trial quoted, and figures or nulls."""

import pytest
from trials import search, trial

from saccade_ros.replay.metrics import interval_of_limits, limits, quoted, trial_record
from saccade_ros.replay.trial import GATED, Arrival, Benchmark, Lateness, Trial

EMPTY = Trial(10.0, 10.0, True, False, 0.0, Lateness(0.0, 0.0, 0.0), {})


def steps(*trials: Trial) -> Benchmark:
    return Benchmark("steps", {}, trials)


@pytest.mark.parametrize(
    ("benchmark", "found"),
    [
        (steps(trial(10), trial(20), trial(40, passed=False)), (20.0, 40.0)),
        (steps(trial(40, passed=False), trial(20), trial(10)), (20.0, 40.0)),
        (steps(trial(10), trial(20)), (20.0, None)),
        (steps(trial(10, passed=False)), (None, 10.0)),
        (steps(trial(10), trial(20, passed=False), trial(30)), (10.0, 20.0)),  # 30 passed by luck
        (steps(trial(10), trial(10, passed=False)), (None, 10.0)),
        (steps(trial(10), trial(40, passed=False, held=False)), (10.0, None)),
        (search(trial(10), trial(20, passed=False), trial(15), peak_hz=15.0), (15.0, 20.0)),
        (search(trial(10), trial(20, passed=False)), (None, 20.0)),  # not verified
    ],
    ids=["up", "down", "never overloaded", "never kept up", "luck", "unsteady", "late player", "peak", "unverified"],
)
def test_limits_are_the_rates_kept_up_with_and_not(benchmark, found):
    assert limits(benchmark) == found


@pytest.mark.parametrize(
    ("benchmark", "found"),
    [
        (steps(trial(10), trial(20), trial(40, passed=False)), (20.0, 40.0)),
        (steps(trial(10), trial(20, passed=False), trial(20), trial(30), trial(40, passed=False)), (10.0, 40.0)),
        (search(trial(30, passed=False), trial(30), trial(40), trial(50, passed=False), peak_hz=40.0), (30.0, 50.0)),
        (steps(trial(10), trial(20)), None),
        (steps(trial(10, passed=False), trial(10)), None),
        (steps(trial(10), trial(15, passed=False, held=False), trial(20, passed=False)), (10.0, 20.0)),
    ],
    ids=["clear", "luck", "luck below the peak", "never overloaded", "never kept up", "late player"],
)
def test_interval_holds_the_rates_at_which_luck_decides(benchmark, found):
    assert interval_of_limits(benchmark) == found


def test_trial_quoted_is_the_last_at_the_rate_kept_up_with():
    first, last = trial(15), trial(15, frames=500)
    assert quoted(search(first, trial(20, passed=False), last, peak_hz=15.0)) is last
    assert quoted(steps(trial(10, passed=False, held=False), first)) is first
    assert quoted(steps(trial(10, held=False))).held is False


def test_rates_are_those_of_images_and_shares_those_of_frames():
    record = trial_record(trial(20.0, frames=400))
    assert record["played"] == sum(record["classes"].values()) == 400
    used = 400 - 8 - 20
    assert record["achieved_hz"] == pytest.approx(20.0 * 0.999 * used / 400)
    assert record["embeddings_hz"] == pytest.approx(used / 2 / 20.0)
    assert record["gate_rate"] == pytest.approx(record["classes"][GATED] / used)
    assert record["cpu_ms"] == pytest.approx(1e3 * 1.2 * 20.0 / used), "1.2 cores for 20 s"


def test_jitter_is_taken_topic_by_topic():
    """Two cameras, half a period apart, one of them slower: together they would look uneven."""
    sent = [(topic, 0.1 * i + shift) for i in range(9) for topic, shift in (("left", 0.0), ("right", 0.05))]
    ways = [Arrival(topic, sent_s, sent_s + 0.02 + 0.05 * (topic == "left")) for topic, sent_s in sent]
    record = trial_record(trial(20.0, arrivals=tuple(ways)))
    assert record["jitter_ms"]["max"] == pytest.approx(0.0, abs=1e-9)


def test_what_was_not_measured_is_null():
    record = trial_record(EMPTY)
    for name in ("achieved_hz", "embeddings_hz", "gate_rate", "age_s", "joules_per_embedding"):
        assert record[name] is None, name
    for name in ("latency_ms", "jitter_ms", "rss_mb", "gpu_mb"):
        assert set(record[name].values()) == {None}, name


def test_memory_has_its_slope_and_energy_is_shared_out():
    record = trial_record(trial(20.0, joules={"rapl:package-0": 93.0, "rapl:dram": 93.0}))
    assert record["rss_mb"]["per_minute"] == pytest.approx(1.0)
    assert trial_record(trial(20.0, rss_mb=((0.0, 100.0), (1.0, 150.0))))["rss_mb"]["per_minute"] is None, "too short"
    assert record["joules_per_embedding"] == pytest.approx(1.0)
