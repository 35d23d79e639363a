"""Interleaved timing: calls that are to be compared take turns, so that a change of the machine's speed hits all."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple, TypeVar

from saccade_ros.measure.progress import Progress, silent

Key = TypeVar("Key", bound=Hashable)


class TimeSpread(NamedTuple):
    """Median, least and largest of some times in milliseconds, and their number."""

    median: float
    min: float
    max: float
    runs: int


def interleave(
    calls: Mapping[Key, Callable[[], object]],
    rounds: int,
    repeats: Mapping[Key, int] | None = None,
    synchronize: Callable[[], object] | None = None,
    progress: Progress = silent,
) -> dict[Key, list[float]]:
    """Time each call once in every round, in the order given.

    Args:
        calls: by name; warmed up by the caller.
        rounds: at least 1.
        repeats: number of times in a row that a call is timed within a round, where it is not 1.
        synchronize: waits for what a call started elsewhere, such as torch.cuda.synchronize; runs before and after
            each call and counts with it.

    Returns:
        All times in milliseconds, by name.
    """
    times_ms: dict[Key, list[float]] = {name: [] for name in calls}
    repeats = repeats or {}
    for done in range(rounds):
        progress("measuring", done / rounds)
        for name, call in calls.items():
            times_ms[name] += [_time_ms(call, synchronize) for _ in range(repeats.get(name, 1))]
    progress("measuring", 1.0)
    return times_ms


def spread(times_ms: list[float]) -> TimeSpread:
    """Summarize one call's times, of which there is at least one."""
    return TimeSpread(statistics.median(times_ms), min(times_ms), max(times_ms), len(times_ms))


def _time_ms(call: Callable[[], object], synchronize: Callable[[], object] | None) -> float:
    if synchronize:
        synchronize()
    started = time.perf_counter()
    call()
    if synchronize:
        synchronize()
    return (time.perf_counter() - started) * 1e3
