"""Record of a replay, summary.json: its figures, what they were measured on, and why one is missing.

docs/replay.schema.json describes it. A change that readers must know of raises VERSION there and here.
"""

import math
from dataclasses import asdict
from typing import Any

from saccade_ros import __version__
from saccade_ros.measure.records import command_line
from saccade_ros.measure.series import estimate_percentiles, flatten
from saccade_ros.replay.metrics import LEAST_SLOPE_S, interval_of_limits, limits, quoted, trial_record
from saccade_ros.replay.modes import PEAK
from saccade_ros.replay.recording import Fact, Recording
from saccade_ros.replay.ros2_benchmark import ros2_benchmark_block
from saccade_ros.replay.scoring import classify
from saccade_ros.replay.trial import Benchmark, Trial
from saccade_ros.vision.ledger import Accounts

VERSION = 1
OFFLINE = "offline"  # mode of a replay in process
QUOTED = (  # of the trial that is quoted, at the top of the record, too
    "latency_ms",
    "latency_interval_ms",
    "end_to_end_ms",
    "end_to_end_interval_ms",
    "jitter_ms",
    "age_s",
    "offered_hz",
    "played_hz",
    "achieved_hz",
    "embeddings_hz",
    "classes",
    "gate_rate",
    "cpu_cores",
    "cpu_ms",
    "rss_mb",
    "gpu_mb",
    "joules",
    "joules_per_embedding",
)


def make_record(recording: Recording) -> dict[str, Any]:
    """Make the record: null where there is nothing to tell, and then `missing` says why."""
    problems, benchmark, fidelity = find_problems(recording), recording.benchmark, asdict(recording.fidelity)
    fidelity.pop("missing")  # it is among the record's own
    figures = _offline_figures(recording) if benchmark is None else _benchmark_figures(benchmark)
    record = {
        "format": "saccade replay",
        "version": VERSION,
        "is_result": not problems,
        "problems": problems,
        "package_version": __version__,
        "command": command_line(),
        "started": recording.started,
        "machine": str(recording.environment.get("machine", "")),
        "weights_sha256": str(recording.environment.get("weights_sha256", "")),
        "recording_sha256": str(recording.environment.get("source_sha256", "")),
        **recording.summary(),
        **figures,
        "fidelity": fidelity,
        "environment": {name: _finite(fact) for name, fact in recording.environment.items()},
        "parameters": recording.parameters,
    }
    return {**record, "missing": _explain(recording, record), "ros2_benchmark": ros2_benchmark_block(recording)}


def _finite(fact: Fact) -> Fact | None:
    """Return what JSON has a number for, else null."""
    return None if isinstance(fact, float) and not math.isfinite(fact) else fact


def find_problems(recording: Recording) -> list[str]:
    """Say what makes a replay no result; nothing if it is one."""
    totals, benchmark, problems = recording.totals, recording.benchmark, []
    if not totals.balanced:
        problems.append(
            f"The accounts do not balance: {totals.frames_in} frames in, {totals.frames_used} used, {totals.dropped} "
            f"dropped; {totals.published} embeddings published, {totals.received} received."
        )
    if benchmark is not None:
        problems += [_unbalanced(trial) for trial in benchmark.trials if not trial.balanced]
        problems += _of_player(benchmark)
    return problems


def _unbalanced(trial: Trial) -> str:
    return (
        f"The accounts of a trial do not balance: at {trial.offered_hz:g} Hz {trial.played} frames were played, and "
        f"{trial.frames} are accounted for."
    )


def _of_player(benchmark: Benchmark) -> list[str]:
    """Problems of the player, and of a search that found nothing; trials of a search may be late, but not its peak."""
    if benchmark.mode == PEAK:
        return [f"No peak was found. {benchmark.remark}".strip()] if benchmark.peak_hz is None else []
    return [
        f"The player could not hold {trial.offered_hz:.4g} Hz: it played {trial.played_hz:.4g} Hz and was up to "
        f"{trial.lateness.max_ms:.0f} ms late, so the figures are the player's, not the encoder's."
        for trial in benchmark.trials
        if not trial.held
    ]


def _offline_figures(recording: Recording) -> dict[str, Any]:
    """Figures of a replay in process: of times only the latencies of the rows."""
    latency_ms, interval_ms = flatten(estimate_percentiles(row.total_ms for row in recording.rows))
    return {
        "mode": OFFLINE,
        **dict.fromkeys((*QUOTED, "startup", "limits", "player_check")),
        "latency_ms": latency_ms,
        "latency_interval_ms": interval_ms,
        "classes": _classes(recording),
        "player": {},
        "trials": [],
    }


def _benchmark_figures(benchmark: Benchmark) -> dict[str, Any]:
    """Figures of the trial that is quoted, and of all."""
    sustained_hz, failed_hz = limits(benchmark)
    spoken = trial_record(quoted(benchmark))
    return {
        "mode": benchmark.mode,
        **{name: spoken[name] for name in QUOTED},
        "startup": _startup(benchmark),
        "limits": {
            "sustained_hz": sustained_hz,
            "failed_hz": failed_hz,
            "interval_hz": interval_of_limits(benchmark),
        },
        "player_check": trial_record(benchmark.check) if benchmark.check else None,
        "player": dict(benchmark.settings),
        "trials": [trial_record(trial) for trial in benchmark.trials],
    }


def _classes(recording: Recording) -> dict[str, int]:
    """Put every frame of a replay in process in its class."""
    totals = recording.totals
    accounts = Accounts(received=totals.frames_in, dropped=totals.frames_dropped)
    return classify(totals.frames_in, accounts, recording.rows)


def _startup(benchmark: Benchmark) -> dict[str, float | None]:
    cold_s, warm_s, *_ = (*benchmark.configure_s, None, None)
    return {
        "cold_configure_s": cold_s,
        "warm_configure_s": warm_s,
        "first_embedding_s": benchmark.first_embedding_s,
    }


def _explain(recording: Recording, record: dict[str, Any]) -> dict[str, str]:
    """Say why figures are null, by name."""
    offline = "in process a recording is read as fast as it goes, without ROS"
    if recording.benchmark is None:
        reasons = {name: offline for name in ("startup", "limits", "player_check", *QUOTED) if record[name] is None}
    else:
        reasons = {name: text for name, text in _MISSING.items() if _is_empty(record[name])}
        memory = (name for name in ("rss_mb", "gpu_mb") if name not in reasons)
        slopes = (f"{name}.per_minute" for name in memory if record[name]["per_minute"] is None)
        reasons |= dict.fromkeys(slopes, f"the trial is shorter than {LEAST_SLOPE_S:.0f} s")
    if not recording.rows:
        reasons |= dict.fromkeys(("encode_rate", "computed_share", "stage_ms"), "no embedding was received")
    if recording.fidelity.missing:
        reasons["fidelity"] = recording.fidelity.missing
    without = [name for name, interval in record["latency_interval_ms"].items() if interval is None and name != "max"]
    if without:
        reasons["latency_interval_ms"] = (
            f"{', '.join(without)}: too few embeddings: p99 needs 500 and p99.9 needs 5000 for an interval"
        )
    return reasons


_MISSING = {
    "jitter_ms": "fewer than two embeddings were received",
    "age_s": "fewer than two embeddings were received",
    "joules": "no energy meter (RAPL, Jetson's INA) could be read",
    "joules_per_embedding": "no energy meter (RAPL, Jetson's INA) could be read",
    "gpu_mb": "no GPU memory was in use, or it could not be read",
    "cpu_ms": "no image came to be in an embedding",
    "rss_mb": "the memory of the encoder's process could not be read",
    "startup": "the encoder was configured by others",
    "limits": "no trial passed",
    "player_check": "only a search for the peak checks the player alone",
}


def _is_empty(figure: Any) -> bool:
    """True if there is nothing in a figure or in any part of it."""
    return all(part is None for part in figure.values()) if isinstance(figure, dict) else figure is None
