"""Figures of the trials of a benchmark: what each measured, which one is quoted, and the rate that was kept up with."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from saccade_ros.measure.series import Passage, estimate_percentiles, flatten, growth_per_min, jitter_s, mean_age_s
from saccade_ros.replay.modes import PEAK
from saccade_ros.replay.recording import percentile
from saccade_ros.replay.trial import DENSE, GATED, SPARSE, Arrival, Benchmark, Trial

USED = (GATED, DENSE, SPARSE)
TAIL = {"p50": 50, "p99": 99, "max": 100}  # of a series whose whole distribution nobody asks for

LEAST_SLOPE_S = 30.0  # of samples that a slope is fitted to: a process that has just begun grows, and then no more


def limits(benchmark: Benchmark) -> tuple[float | None, float | None]:
    """Find the rates that the encoder did and did not keep up with, in images per second and topic.

    Returns:
        The peak of a search for it, else the highest rate that passed with none below it that failed; and the lowest
        rate that failed above that. None where there is none; trials whose player was late tell nothing.
    """
    held = [trial for trial in benchmark.trials if trial.held]
    failed = [trial.offered_hz for trial in held if not trial.passed]
    passed = [trial.offered_hz for trial in held if trial.passed and trial.offered_hz < min(failed, default=math.inf)]
    sustained = benchmark.peak_hz if benchmark.mode == PEAK else max(passed, default=None)
    return sustained, min((hz for hz in failed if hz > (sustained or 0.0)), default=None)


def interval_of_limits(benchmark: Benchmark) -> tuple[float, float] | None:
    """Find the range of rates that the encoder kept up with now and then: the machine's speed, or luck, decided.

    Returns:
        The rate kept up with, or the lowest that ever failed if that is lower; and the lowest that failed with none at
        or above it that passed. None if one of them is not known.
    """
    held, (sustained, _) = [trial for trial in benchmark.trials if trial.held], limits(benchmark)
    passed = [trial.offered_hz for trial in held if trial.passed]
    failed = [trial.offered_hz for trial in held if not trial.passed]
    high = min((hz for hz in failed if hz > max(passed, default=0.0)), default=None)
    return None if sustained is None or high is None else (min(sustained, *failed), high)


def quoted(benchmark: Benchmark) -> Trial:
    """Choose the trial whose figures are quoted: the last one at the rate kept up with, else the last that was held."""
    sustained, _ = limits(benchmark)
    trials = benchmark.trials
    held = [trial for trial in trials if trial.held]
    return ([trial for trial in held if trial.offered_hz == sustained] or held or list(trials))[-1]


def trial_record(trial: Trial) -> dict[str, Any]:
    """Tabulate one trial for JSON: null where nothing was measured."""
    frames, embeddings = trial.frames, len(trial.latency_ms)
    used = sum(trial.classes.get(name, 0) for name in USED)
    latency_ms, latency_interval_ms = flatten(estimate_percentiles(trial.latency_ms))
    end_to_end_ms, end_to_end_interval_ms = flatten(estimate_percentiles(trial.end_to_end_ms))
    return {
        "offered_hz": trial.offered_hz,
        "played_hz": trial.played_hz,
        "achieved_hz": trial.played_hz * used / frames if frames else None,
        "embeddings_hz": embeddings / trial.seconds if trial.seconds else None,
        "held": trial.held,
        "passed": trial.passed,
        "balanced": trial.balanced,
        "seconds": trial.seconds,
        "lateness_ms": {"p50": trial.lateness.p50_ms, "p99": trial.lateness.p99_ms, "max": trial.lateness.max_ms},
        "played": frames if trial.played is None else trial.played,
        "classes": dict(sorted(trial.classes.items())),
        "embeddings": embeddings,
        "gate_rate": trial.classes.get(GATED, 0) / used if used else None,
        "latency_ms": latency_ms,
        "latency_interval_ms": latency_interval_ms,
        "end_to_end_ms": end_to_end_ms,
        "end_to_end_interval_ms": end_to_end_interval_ms,
        "jitter_ms": _jitter_ms(trial.arrivals),
        "age_s": _age_s(trial.arrivals),
        "cpu_cores": trial.cpu_cores,
        "cpu_ms": 1e3 * trial.cpu_cores * trial.seconds / used if used else None,
        "rss_mb": _memory(trial.rss_mb),
        "gpu_mb": _memory(trial.gpu_mb),
        "joules": dict(trial.joules),
        "joules_per_embedding": sum(trial.joules.values()) / embeddings if trial.joules and embeddings else None,
    }


def by_topic(arrivals: Sequence[Arrival]) -> list[list[Passage]]:
    """Split arrivals by topic, each in the order of arrival."""
    ordered = sorted(arrivals, key=lambda arrival: (arrival.topic, arrival.received_s))
    groups = itertools.groupby(ordered, key=lambda arrival: arrival.topic)
    return [[Passage(arrival.sent_s, arrival.received_s) for arrival in group] for _, group in groups]


def _jitter_ms(arrivals: Sequence[Arrival]) -> dict[str, float | None]:
    differences = [1e3 * jitter for passages in by_topic(arrivals) for jitter in jitter_s(passages)]
    return {name: percentile(differences, q) for name, q in TAIL.items()}


def _age_s(arrivals: Sequence[Arrival]) -> float | None:
    """Mean over the topics."""
    ages = [age for passages in by_topic(arrivals) if (age := mean_age_s(passages)) is not None]
    return sum(ages) / len(ages) if ages else None


def _memory(samples: Sequence[tuple[float, float]]) -> dict[str, float | None]:
    megabytes = [value for _, value in samples]
    is_long = len(samples) > 1 and samples[-1][0] - samples[0][0] >= LEAST_SLOPE_S
    return {
        "first": megabytes[0] if megabytes else None,
        "last": megabytes[-1] if megabytes else None,
        "max": max(megabytes, default=None),
        "per_minute": growth_per_min(samples) if is_long else None,
    }
