"""Gates replayed over a trace: the policies of the gate, of which the simple ones must be beaten, and the oracle."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from saccade_ros.config import GateConfig
from saccade_ros.frames import Observation, TokenPlan
from saccade_ros.measure.metrics import centred_cosine, summarize
from saccade_ros.plan.change import PatchResponse
from saccade_ros.plan.gate import SurpriseGate
from saccade_ros.plan.patch_change import PatchChange
from saccade_ros.studies.trace import Trace

# Thresholds between which any number of tubelets is encoded, by gate.policy.
RANGES = {"predicted": (1e-5, 20.0), "pixels": (1e-5, 1.0), "previous": (1e-5, 10.0), "even": (1e-3, 100.0)}
Encoded = npt.NDArray[np.bool_]  # (T,)
Replay = Callable[[float], Encoded]  # by threshold


class Score(NamedTuple):
    """Worth of a gate's choice of tubelets, over the tubelets after the warm-up.

    Attributes:
        encoded: how many tubelets it encoded.
        rate: their fraction.
        mean, p5, worst: centred cosine of each published embedding to the fresh one of the same tubelet.
        reused, below: how many embeddings were reused, and how many of these fell below the target.
        latency_s: from an event to the first encoded tubelet, the worst event; NaN without events.
        staleness_s_mean, staleness_s_max: age of the published embeddings.
    """

    encoded: int
    rate: float
    mean: float
    p5: float
    worst: float
    reused: int
    below: int
    latency_s: float
    staleness_s_mean: float
    staleness_s_max: float


def gate_replay(
    trace: Trace, config: GateConfig, response: PatchResponse, centre: npt.NDArray[np.float32], window: int
) -> Replay:
    """Replay a policy of the gate as the node runs it; the threshold is gate.tau."""
    warm, dense = trace.warm(window), TokenPlan.dense(trace.features.shape[1], "dense")

    def replay(tau: float) -> Encoded:
        """Encode all of the warm-up, then by the gate, which learns what reuse would have cost."""
        gate = SurpriseGate(replace(config, tau=tau), PatchChange(response), window)
        encoded, last = np.zeros(len(trace), np.bool_), 0
        for t, (features, stamp_ns) in enumerate(zip(trace.features, trace.stamps_ns.tolist(), strict=True)):
            if t and trace.epochs[t] != trace.epochs[t - 1]:
                gate.reset()
            seen = Observation(features, stamp_ns, trace.pixels(t))
            plan = gate.propose(seen, dense)
            if warm[t]:
                plan = dense
            gate.commit(seen, plan)
            encoded[t] = plan.size > 0
            if encoded[t]:
                gate.learn(1 - float(centred_cosine(trace.vectors[last], trace.vectors[t], centre)))
                last = t
        return encoded

    return replay


def oracle(trace: Trace, centre: npt.NDArray[np.float32], window: int, target: float) -> Encoded:
    """Encode where the last encoded embedding would fall below the target: the least that any gate must encode.

    It knows every fresh embedding, which is what no gate knows.
    """
    encoded: Encoded = trace.warm(window).copy()
    last = 0
    for t in range(len(trace)):
        encoded[t] |= float(centred_cosine(trace.vectors[last], trace.vectors[t], centre)) < target
        last = t if encoded[t] else last
    return encoded


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


def score(trace: Trace, encoded: Encoded, centre: npt.NDArray[np.float32], window: int, target: float = 0.98) -> Score:
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
        reused=len(reused),
        below=int((reused < target).sum()),
        latency_s=max(waits, default=float("nan")),
        staleness_s_mean=float(age_s.mean()),
        staleness_s_max=float(age_s.max()),
    )


def _wait_s(trace: Trace, encoded: Encoded, event: int) -> float:
    """Seconds from an event's tubelet to the first encoded one; to the end of the trace if there is none."""
    later = np.flatnonzero(encoded[event:])
    noticed = event + int(later[0]) if len(later) else len(trace) - 1
    return float(trace.stamps_ns[noticed] - trace.stamps_ns[event]) / 1e9
