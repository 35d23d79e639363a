"""Gates replayed over a trace: the surprise gate, and the two simple baselines that it must beat."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from saccade_ros.config import GateConfig
from saccade_ros.frames import Observation, TokenPlan
from saccade_ros.measure.metrics import centred_cosine, summarize
from saccade_ros.plan.gate import SurpriseGate
from saccade_ros.plan.reference import PatchResponse
from saccade_ros.studies.trace import Trace

NO_PIXELS = np.empty((2, 3, 0, 0), np.float32)  # a trace keeps none; the gates see patches
Encoded = npt.NDArray[np.bool_]  # (T,)
Replay = Callable[[float], Encoded]  # by threshold


class Score(NamedTuple):
    """Worth of a gate's choice of tubelets, over the tubelets after the warm-up.

    Attributes:
        encoded: how many tubelets it encoded.
        rate: their fraction.
        mean, p5, worst: centred cosine of each published embedding to the fresh one of the same tubelet.
        reused_p5: p5 over the reused embeddings alone, the figure that calibration promises; 1 if there is none.
        latency_s: from an event to the first encoded tubelet, the worst event; NaN without events.
        staleness_s_mean, staleness_s_max: age of the published embeddings.
    """

    encoded: int
    rate: float
    mean: float
    p5: float
    worst: float
    reused_p5: float
    latency_s: float
    staleness_s_mean: float
    staleness_s_max: float


def surprise_gate(trace: Trace, config: GateConfig, response: PatchResponse, window: int) -> Replay:
    """Replay the gate as the node runs it; the threshold is gate.tau."""
    warm, dense = trace.warm(window), TokenPlan.dense(trace.features.shape[1], "dense")

    def replay(tau: float) -> Encoded:
        """Encode all of the warm-up, then by the gate."""
        gate, encoded = SurpriseGate(replace(config, tau=tau), response), np.zeros(len(trace), np.bool_)
        for t, (features, stamp_ns) in enumerate(zip(trace.features, trace.stamps_ns.tolist(), strict=True)):
            if t and trace.epochs[t] != trace.epochs[t - 1]:
                gate.reset()
            seen = Observation(features, stamp_ns, NO_PIXELS)
            plan = gate.propose(seen, dense)
            if warm[t]:
                plan = dense
            gate.commit(seen, plan)
            encoded[t] = plan.size > 0
        return encoded

    return replay


def pixel_gate(trace: Trace, config: GateConfig, window: int) -> Replay:
    """Replay frame differencing in its strong form: mean absolute difference of grey levels to the last encoded one."""
    grey = trace.grey.astype(np.int16)
    return _threshold_gate(trace, config, window, lambda t, last: float(np.abs(grey[t] - grey[last]).mean()))


def previous_gate(trace: Trace, config: GateConfig, window: int) -> Replay:
    """Replay the relative change of all patches to the previous tubelet's, as the public reference library has it."""
    change, before = [0.0], trace.features[0]
    for now in trace.features[1:]:
        change.append(float(np.linalg.norm(now - before) / (np.linalg.norm(before) + 1e-12)))
        before = now
    return _threshold_gate(trace, config, window, lambda t, last: change[t])


def _threshold_gate(trace: Trace, config: GateConfig, window: int, measure: Callable[[int, int], float]) -> Replay:
    """Encode where measure(tubelet, last encoded) reaches the threshold, and after max_skip_s as the gate does."""
    warm, max_skip_ns = trace.warm(window), config.max_skip_s * 1e9

    def replay(threshold: float) -> Encoded:
        """Encode all of the warm-up, then by the threshold."""
        encoded: Encoded = warm.copy()
        last = 0
        for t in range(len(trace)):
            stale = bool(max_skip_ns) and trace.stamps_ns[t] - trace.stamps_ns[last] >= max_skip_ns
            encoded[t] |= stale or measure(t, last) >= threshold
            last = t if encoded[t] else last
        return encoded

    return replay


def match_count(replay: Replay, count: int, lowest: float, highest: float, rounds: int = 16) -> tuple[float, Encoded]:
    """Find the threshold whose encodes come nearest to `count`, the more of two as near; return it and them."""
    low, high = np.log(lowest), np.log(highest)
    best: tuple[float, Encoded] | None = None
    for _ in range(rounds):
        threshold = float(np.exp((low + high) / 2))
        encoded = replay(threshold)
        found = int(encoded.sum())
        if best is None or (abs(found - count), -found) < (abs(int(best[1].sum()) - count), -int(best[1].sum())):
            best = threshold, encoded
        if found == count:
            break
        low, high = (np.log(threshold), high) if found > count else (low, np.log(threshold))
    assert best is not None
    return best


def score(trace: Trace, encoded: Encoded, centre: npt.NDArray[np.float32], window: int) -> Score:
    """Judge a choice of tubelets against the fresh embeddings of the trace."""
    judged = ~trace.warm(window)
    if not judged.any():
        raise ValueError(f"{trace.name}: {len(trace)} tubelets are no more than the window {window}; give a longer one")
    source_idx = np.maximum.accumulate(np.where(encoded, np.arange(len(trace)), 0))  # (T,)
    cosine = centred_cosine(trace.vectors[source_idx], trace.vectors, centre)
    published, reused = summarize(cosine[judged]), cosine[judged & ~encoded]
    age_s = (trace.stamps_ns - trace.stamps_ns[source_idx])[judged] / 1e9
    waits = [_wait_s(trace, encoded, event) for event in trace.events if judged[event]]
    return Score(
        encoded=int(encoded[judged].sum()),
        rate=float(encoded[judged].mean()),
        mean=published.mean,
        p5=published.p5,
        worst=published.worst,
        reused_p5=summarize(reused).p5 if len(reused) else 1.0,
        latency_s=max(waits, default=float("nan")),
        staleness_s_mean=float(age_s.mean()),
        staleness_s_max=float(age_s.max()),
    )


def _wait_s(trace: Trace, encoded: Encoded, event: int) -> float:
    """Seconds from an event's tubelet to the first encoded one; to the end of the trace if there is none."""
    later = np.flatnonzero(encoded[event:])
    noticed = event + int(later[0]) if len(later) else len(trace) - 1
    return float(trace.stamps_ns[noticed] - trace.stamps_ns[event]) / 1e9
