"""Percentiles with intervals that hold, slopes, jitter and the age of information."""

import math

import numpy as np
import pytest

from saccade_ros.measure.series import Passage, estimate_percentiles, flatten, growth_per_min, jitter_s, mean_age_s


def autocorrelated(count: int, seed: int, memory: float = 0.8) -> np.ndarray:
    """A series in which each value is like the one before; its median is 0."""
    noise, value, series = np.random.default_rng(seed).normal(size=count), 0.0, []
    for innovation in noise:
        value = memory * value + innovation
        series.append(value)
    return np.array(series)


def test_percentiles_are_those_of_the_values_and_the_same_again():
    values = [*np.random.default_rng(0).permutation(np.arange(1.0, 1001.0)), math.nan, math.inf]
    found = estimate_percentiles(values)
    assert [found[name].value for name in ("p50", "p99", "max")] == pytest.approx([500.5, 990.01, 1000.0])
    assert found == estimate_percentiles(values)
    assert 980 < found["p99"].low < 990.01 <= found["p99"].high < 1000
    assert found["max"].low is None


def test_interval_of_the_median_covers_it_though_values_are_alike():
    """Resampled one by one, values that follow each other give an interval that misses three times of eight."""
    found = [estimate_percentiles(autocorrelated(600, seed))["p50"] for seed in range(20)]
    assert sum(estimate.low <= 0 <= estimate.high for estimate in found) >= 16


@pytest.mark.parametrize(("count", "without"), [(5000, set()), (4999, {"p99.9"}), (499, {"p99", "p99.9"}), (1, None)])
def test_percentile_has_an_interval_where_five_values_are_expected_beyond_it(count, without):
    _, intervals = flatten(estimate_percentiles(np.linspace(1, 2, count)))
    missing = {name for name, interval in intervals.items() if interval is None} - {"max"}
    assert missing == (set(intervals) - {"max"} if without is None else without)


def test_nothing_has_no_percentiles():
    values, intervals = flatten(estimate_percentiles([math.nan]))
    assert set(values.values()) | set(intervals.values()) == {None}


def test_growth_is_the_slope_a_minute():
    assert growth_per_min([(0.0, 100.0), (60.0, 101.5), (120.0, 103.0)]) == pytest.approx(1.5)
    assert growth_per_min([(0.0, 100.0)]) is None


def test_jitter_is_0_for_a_constant_delay_whatever_is_missing_and_else_what_came_unevenly():
    sent = [0.0, 0.1, 0.2, 0.7, 0.8]
    assert jitter_s([Passage(at, at + 0.05) for at in sent]) == pytest.approx([0.0] * 4)
    late = [Passage(at, at + 0.05 + 0.03 * (at == 0.2)) for at in sent]
    assert jitter_s(late) == pytest.approx([0.0, 0.03, 0.03, 0.0])
    assert jitter_s([Passage(0.0, 1.0)]) == []


def test_age_of_a_steady_stream_is_delay_and_half_a_period():
    steady = [Passage(0.1 * i, 0.1 * i + 0.04) for i in range(50)]
    assert mean_age_s(steady) == pytest.approx(0.04 + 0.05)


def test_age_is_that_of_the_newest_also_where_one_overtakes_another():
    """Against the definition, moment by moment."""
    rng = np.random.default_rng(0)
    sent = np.sort(rng.uniform(0, 10, 40))
    passages = [Passage(float(at), float(at + delay)) for at, delay in zip(sent, rng.uniform(0, 2, 40), strict=True)]
    first, last = min(p.received_s for p in passages), max(p.received_s for p in passages)
    moments = first + (np.arange(40_000) + 0.5) / 40_000 * (last - first)
    ages = [at - max(p.sent_s for p in passages if p.received_s <= at) for at in moments]
    assert mean_age_s(passages) == pytest.approx(np.mean(ages), rel=1e-3)
    assert mean_age_s(passages[:1]) is None
