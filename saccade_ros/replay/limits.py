"""Figures of a record that can be compared, and limits of their change: p99:+10%, peak:-5%, fidelity_p5:-0.01."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saccade_ros.knobs import ConfigError
from saccade_ros.measure.series import Estimate
from saccade_ros.replay.record import OFFLINE


@dataclass(frozen=True)
class Figure:
    """Place of a figure in a record.

    Attributes:
        path: names from the top of the record down.
        interval: path of its interval in one run, [low, high]; empty where one run has none.
        is_exact: True if a replay in process gives the same again: the same recording, the same bytes.
    """

    path: tuple[str, ...]
    interval: tuple[str, ...] = ()
    is_exact: bool = False

    def read(self, record: Mapping[str, Any]) -> Estimate:
        """Read the value and its interval; None where there is none."""
        value = _at(record, self.path)
        if self.is_exact and record["mode"] == OFFLINE:
            return Estimate(value, value, value)
        return Estimate(value, *((_at(record, self.interval) if self.interval else None) or ()))


def _at(record: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        record = record.get(name) if isinstance(record, Mapping) else None
    return record


def _latency(name: str) -> Figure:
    return Figure(("latency_ms", name), ("latency_interval_ms", name))


def _end_to_end(name: str) -> Figure:
    return Figure(("end_to_end_ms", name), ("end_to_end_interval_ms", name))


FIGURES = {
    "peak": Figure(("limits", "sustained_hz"), ("limits", "interval_hz")),
    "throughput": Figure(("embeddings_hz",)),
    **{name: _latency(name) for name in ("p50", "p90", "p95", "p99", "p99.9", "max")},
    **{f"end_to_end_{name}": _end_to_end(name) for name in ("p50", "p99")},
    "jitter_p99": Figure(("jitter_ms", "p99")),
    "age": Figure(("age_s",)),
    "tokens": Figure(("computed_share",), is_exact=True),
    "encode_rate": Figure(("encode_rate",), is_exact=True),
    "fidelity_mean": Figure(("fidelity", "mean"), is_exact=True),
    "fidelity_p5": Figure(("fidelity", "p5"), is_exact=True),
    "fidelity_worst": Figure(("fidelity", "worst"), is_exact=True),
    "cold_configure": Figure(("startup", "cold_configure_s")),
    "warm_configure": Figure(("startup", "warm_configure_s")),
    "first_embedding": Figure(("startup", "first_embedding_s")),
    "cpu": Figure(("cpu_cores",)),
    "cpu_ms": Figure(("cpu_ms",)),
    "rss": Figure(("rss_mb", "max")),
    "gpu": Figure(("gpu_mb", "max")),
    "energy": Figure(("joules_per_embedding",)),
}


@dataclass(frozen=True)
class Limit:
    """Largest change of a figure that is still allowed, upwards if positive and downwards if negative.

    Attributes:
        change: in percent of the reference, if `relative`; else in the figure's own unit.
    """

    text: str
    name: str
    change: float
    relative: bool


def read_limit(text: str) -> Limit:
    """Read a limit as it is written on a command line.

    Raises:
        ConfigError: it is none.
    """
    found = re.fullmatch(r"([\w.]+):([+-](?:\d+\.?\d*|\.\d+))(%?)", text.strip())
    if not found:
        raise ConfigError(f"fail_on is {text!r}: give NAME:+NUMBER or NAME:-NUMBER, in % or not, such as p99:+10%")
    name, change, percent = found.groups()
    if name not in FIGURES:
        raise ConfigError(f"fail_on is {text!r}: {name} is no figure; choose one of {', '.join(FIGURES)}")
    return Limit(text, name, float(change), percent == "%")
