"""Measures of series in time: percentiles with intervals, growth, jitter, and the age of information."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
RESAMPLES = 1000
LEAST_BEYOND = 5  # values that must be expected beyond a percentile for it to have an interval
_AT_ONCE = 1 << 20  # values of resamples in memory


class Estimate(NamedTuple):
    """Value, and the interval that 95 of 100 resamples lie in; None where there is too little to tell."""

    value: float | None
    low: float | None = None
    high: float | None = None


def percentile_name(q: float) -> str:
    """Name a percentile: p50, p99.9."""
    return f"p{q:g}"


def estimate_percentiles(values: Iterable[float], seed: int = 0) -> dict[str, Estimate]:
    """Estimate the percentiles of a series, p50 to p99.9, and its maximum, which has no interval.

    Latencies that follow each other are alike, and resampling them one by one would make the intervals too narrow. So
    blocks are drawn, as long as the square root of the series' length, from a circle in which the first value follows
    the last (circular block bootstrap, Politis and Romano 1992). Of series of 600 and 2000 values, each 0.5 or 0.8 of
    the one before plus noise, such intervals held the true median and p90 in 87 to 97 of 100 cases; intervals of single
    values in 57 to 92.

    A percentile has an interval where five values are expected beyond it: p99 from 500 values on, p99.9 from 5000 on.
    With fewer it is little else than the maximum, and resampling cannot tell how far the next one would go.

    Args:
        values: in the order of time; what is not finite is left out.
        seed: of the draws, so that a record gives the same intervals again.
    """
    series = np.array([value for value in values if math.isfinite(value)])
    names = [*map(percentile_name, PERCENTILES), "max"]
    if not len(series):
        return dict.fromkeys(names, Estimate(None))
    drawn = [np.percentile(resamples, PERCENTILES, axis=1) for resamples in _resamples(series, seed)]  # each (Q, some)
    lows, highs = np.percentile(np.concatenate(drawn, axis=1), (2.5, 97.5), axis=1)  # (Q,), (Q,)
    found = {"max": Estimate(float(series.max()))}
    for name, q, value, low, high in zip(
        names, PERCENTILES, np.percentile(series, PERCENTILES), lows, highs, strict=False
    ):
        told = len(series) * (100 - q) > 100 * LEAST_BEYOND - 1e-6  # the tolerance is for 100 - 99.9
        found[name] = Estimate(float(value), *((float(low), float(high)) if told else ()))
    return {name: found[name] for name in names}


def _resamples(series: Floats, seed: int) -> Iterator[Floats]:
    """Yield RESAMPLES rows as long as the series, some at once, (some, N)."""
    count, rng = len(series), np.random.default_rng(seed)
    length = math.ceil(math.sqrt(count))
    rows = max(1, _AT_ONCE // count)
    for done in range(0, RESAMPLES, rows):
        starts = rng.integers(count, size=(min(rows, RESAMPLES - done), math.ceil(count / length), 1))
        place_idx = (starts + np.arange(length)).reshape(len(starts), -1)[:, :count] % count  # (some, N)
        yield series[place_idx]  # (some, N)


def growth_per_min(samples: Sequence[tuple[float, float]]) -> float | None:
    """Fit a line to (seconds, value) pairs and return its slope a minute; None for less than two."""
    if len(samples) < 2:
        return None
    seconds, values = np.array(samples, np.float64).T
    return float(np.polyfit(seconds / 60, values, 1)[0])


class Passage(NamedTuple):
    """Something sent and received, in seconds on one clock."""

    sent_s: float
    received_s: float


def jitter_s(passages: Sequence[Passage]) -> list[float]:
    """Compute how unevenly a stream arrives: of each two in a row, |time between arrivals - time between sendings|.

    It is 0 for a constant delay, also where some are missing between. RFC 3550, section 6.4.1, smooths the same
    differences; here they are all kept.
    """
    sent, received = np.array(passages, np.float64).reshape(-1, 2).T  # (N,), (N,)
    return [float(difference) for difference in np.abs(np.diff(received) - np.diff(sent))]


def mean_age_s(passages: Sequence[Passage]) -> float | None:
    """Average over time the age of the newest information, from the first to the last arrival; None for less than two.

    At each moment it is the time since the newest of what has arrived was sent. The average is exact: between two
    arrivals the age grows evenly.
    """
    arrived = sorted(passages, key=lambda passage: passage.received_s)
    if len(arrived) < 2 or arrived[-1].received_s <= arrived[0].received_s:
        return None
    sent, received = np.array(arrived, np.float64).T  # (N,), (N,)
    newest = np.maximum.accumulate(sent)[:-1]  # one that overtook another is not followed by an older one
    ages = ((received[1:] - newest) ** 2 - (received[:-1] - newest) ** 2) / 2
    return float(ages.sum() / (received[-1] - received[0]))


def flatten(estimates: Mapping[str, Estimate]) -> tuple[dict[str, float | None], dict[str, list[float] | None]]:
    """Split estimates in their values and their intervals, by name; None where there is none."""
    values = {name: estimate.value for name, estimate in estimates.items()}
    intervals = {
        name: None if estimate.low is None or estimate.high is None else [estimate.low, estimate.high]
        for name, estimate in estimates.items()
    }
    return values, intervals
