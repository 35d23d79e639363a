"""Figures in the form of the report of NVIDIA's ros2_benchmark, so that its readers can take them as they are.

Names and meanings are those of BasicPerformanceMetrics in ros2_benchmark/basic_performance_calculator.py and of
BenchmarkMetadata (github.com/NVIDIA-ISAAC-ROS/ros2_benchmark): the trial that is quoted at the top, each other rate
under its name, such as "30.0fps", and metadata. Frames are images: one counts as received when it is in an embedding
that was received, and is missed otherwise. Input and output are paired by topic and stamp, so latencies stay true after
a frame was dropped. Metrics that were not measured are left out, as there.
"""

import json
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np

from saccade_ros.replay.metrics import USED, by_topic, limits, quoted
from saccade_ros.replay.recording import Recording
from saccade_ros.replay.trial import Trial


def ros2_benchmark_block(recording: Recording) -> dict[str, Any] | None:
    """Make the block; None without a trial over ROS."""
    benchmark = recording.benchmark
    if benchmark is None:
        return None
    spoken = quoted(benchmark)
    others = {f"{trial.offered_hz:.1f}fps": _metrics(trial) for trial in benchmark.trials if trial.held}
    others.pop(f"{spoken.offered_hz:.1f}fps", None)
    facts, (sustained_hz, _) = recording.environment, limits(benchmark)
    metadata = {
        "NAME": f"saccade_ros encoder, {benchmark.mode}",
        "TEST_DATETIME": recording.started,
        "DEVICE_ARCH": platform.machine(),
        "DEVICE_OS": f"{platform.system()} {platform.release()}",
        "PEAK_THROUGHPUT_PREDICTION": sustained_hz,
        "INPUT_DATA_PATH": str(facts.get("source", "")),
        "INPUT_DATA_HASH": str(facts.get("source_sha256", "")),
        "CONFIG": json.dumps({**benchmark.settings, **recording.parameters}, sort_keys=True),
    }
    return {**_metrics(spoken), **others, "metadata": _named("BenchmarkMetadata", metadata)}


def _metrics(trial: Trial) -> dict[str, float | int]:
    used = sum(trial.classes.get(name, 0) for name in USED)
    played = trial.frames if trial.played is None else trial.played
    figures: dict[str, float | int | None] = {
        "MEAN_PLAYBACK_FRAME_RATE": trial.played_hz,
        "NUM_MISSED_FRAMES": played - used,
        "NUM_FRAMES_SENT": played,
        **_ways(trial, used),
        **_latencies(trial.end_to_end_ms),
        **_jitters(trial),
    }
    return _named("BasicPerformanceMetrics", figures)


def _ways(trial: Trial, used: int) -> dict[str, float]:
    if not trial.arrivals:
        return {}
    received_ms = [1e3 * arrival.received_s for arrival in trial.arrivals]
    first, last = min(received_ms), max(received_ms)
    rate = {"MEAN_FRAME_RATE": 1e3 * used / (last - first)} if last > first else {}
    return {
        "RECEIVED_DURATION": last - first,
        **rate,
        "FIRST_SENT_RECEIVED_LATENCY": first,
        "LAST_SENT_RECEIVED_LATENCY": last - 1e3 * trial.seconds,
    }


def _latencies(end_to_end_ms: Sequence[float]) -> dict[str, float]:
    if not end_to_end_ms:
        return {}
    return {
        "FIRST_INPUT_LATENCY": end_to_end_ms[0],
        "LAST_INPUT_LATENCY": end_to_end_ms[-1],
        "MAX_LATENCY": max(end_to_end_ms),
        "MIN_LATENCY": min(end_to_end_ms),
        "MEAN_LATENCY": sum(end_to_end_ms) / len(end_to_end_ms),
    }


def _jitters(trial: Trial) -> dict[str, float]:
    """Change of the time between two embeddings, as ros2_benchmark defines jitter; measure/series.py has another."""
    times_ms = [[1e3 * passage.received_s for passage in passages] for passages in by_topic(trial.arrivals)]
    jitters = np.concatenate([np.abs(np.diff(times, 2)) for times in times_ms if len(times) > 2] or [np.empty(0)])
    if not len(jitters):
        return {}
    return {
        "MAX_JITTER": float(jitters.max()),
        "MIN_JITTER": float(jitters.min()),
        "MEAN_JITTER": float(jitters.mean()),
        "STD_DEV_JITTER": float(jitters.std()),
    }


def _named(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{name}": value for name, value in values.items() if value is not None}
