"""Trials of plain numbers, for tests of what is made of them."""

from dataclasses import replace

import numpy as np

from saccade_ros.replay.recording import Recording
from saccade_ros.replay.trial import DENSE, GATED, LOST, NOT_SAMPLED, REPLACED, Arrival, Benchmark, Lateness, Trial

FACTS = {"machine": "a chip, 2 cores", "weights_sha256": "ab" * 32, "source_sha256": "cd" * 32, "backend": "torch"}
FACTS |= {"weights": "checkpoint vitl", "source": "clip.mp4", "encoder_id": "vitl:fp32", "gpus": "none"}


def trial(hz: float = 20.0, passed: bool = True, frames: int = 400, scale: float = 1.0, **changed) -> Trial:
    """Half of the tubelets gated, a few frames lost; latencies around 30 ms, another series for each rate."""
    lost = frames // 50 if passed else frames // 4
    used = frames - lost - frames // 20
    classes = {GATED: used // 2, DENSE: used - used // 2, LOST: lost // 2, REPLACED: lost - lost // 2}
    classes[NOT_SAMPLED] = frames - sum(classes.values())
    latency_ms = scale * np.random.default_rng(round(hz)).gamma(9.0, 3.0, used // 2)
    sent_s = 2 * np.arange(1, used // 2 + 1) / hz
    ways = zip(sent_s, latency_ms, strict=True)
    arrivals = tuple(Arrival("/camera", float(at), float(at + ms / 1e3)) for at, ms in ways)
    made = Trial(hz, hz * 0.999, True, passed, frames / hz, Lateness(0.1, 0.8, 2.0), classes, frames)
    made = replace(made, latency_ms=tuple(map(float, latency_ms)), arrivals=arrivals, cpu_cores=1.2)
    made = replace(made, end_to_end_ms=tuple(1e3 * (a.received_s - a.sent_s) for a in arrivals))
    made = replace(made, rss_mb=tuple((float(s), 400 + s / 60) for s in range(40)))
    return replace(made, **changed)


def search(*trials: Trial, peak_hz: float | None = None, **changed) -> Benchmark:
    """A search for the peak."""
    return Benchmark("peak", {"tolerance": 0.05}, trials, peak_hz, (2.5, 1.25), 0.4, **changed)


def benchmarked(benchmark: Benchmark | None, **facts) -> Recording:
    """A recording of these trials, without rows."""
    return Recording(environment={**FACTS, **facts}, benchmark=benchmark, parameters={"gate.tau": 0.02})
