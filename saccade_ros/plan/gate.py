"""The decision: is this tubelet new enough to be encoded?

The reference is the last encoded tubelet, not the previous one: a pan too slow for any single step to notice, or a
slow change of light, adds up until it fires.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from saccade_ros.config import GateConfig
from saccade_ros.plan.drift import OnsetDetector, accumulate_drift
from saccade_ros.plan.patches import PatchMemory, PatchResponse
from saccade_ros.plan.signals import Features, PerPatch
from saccade_ros.plan.threshold import State, choose_threshold

# A lasting change of light is no news, but the embedding should follow it: it drifts at this share of its size, and by
# no more than this share of tau, so that no sudden light, however bright, is taken for news.
LIGHT_DRIFT, LIGHT_DRIFT_OF_TAU = 0.2, 0.75
# Novelty saturates: two pictures that have nothing in common are no more different for being older. What a reused
# embedding loses adds up all the same, so all novelty but a tenth of tau, which noise may reach, counts as drift.
DRIFT_ALLOWANCE = 0.1
QUIET_NS = 1_000_000_000  # of calm between two events


@dataclass(frozen=True)
class Decision:
    """What the gate says of a tubelet.

    Attributes:
        encode: True to run the encoder.
        novelty: relative change, 0 = identical; NaN without a reference or with the gate off.
        threshold: tau at this decision; NaN with the gate off.
        reason: why it is encoded: first, novelty, drift, stale or open (gate off); empty if it is not.
        patches: novelty of each patch, (S,); None where novelty is NaN.
        drift: the accumulated drift, this tubelet's included.
    """

    encode: bool
    novelty: float
    threshold: float
    reason: str
    patches: PerPatch | None = None
    drift: float = 0.0


class Gate(Protocol):
    """One stream's gate. `decide` asks; `accept` tells it that the tubelet it decided on last has its embedding, and
    returns True if an event begins with it."""

    config: GateConfig

    def decide(self, features: Features, stamp_ns: int) -> Decision: ...
    def accept(self, decision: Decision, features: Features, stamp_ns: int) -> bool: ...
    def reset(self) -> None: ...
    def state(self) -> State: ...


class SurpriseGate:
    """Opens when novelty reaches tau, when small changes have added up, when the embedding is max_skip_s old, and when
    there is nothing to reuse."""

    def __init__(self, config: GateConfig, response: PatchResponse) -> None:
        self.config = config  # replaced as a whole when a parameter changes; the next tubelet sees it
        self._memory = PatchMemory(response, config.top_fraction)
        self._threshold = choose_threshold(config)
        self._onsets = OnsetDetector(QUIET_NS)
        self.reset()

    def reset(self) -> None:
        """Forget the stream: the next tubelet is encoded. Only the budget's tau stays, as the budget is the robot's."""
        self._memory.reset()
        self._onsets.reset()
        self._threshold.restart()
        self._drift = 0.0
        self._encoded_ns = 0

    def decide(self, features: Features, stamp_ns: int) -> Decision:
        """Compare a tubelet with the last encoded one. Until it is accepted nothing has happened."""
        config, tau = self.config, self._threshold.tau(self.config)
        change = self._memory.measure(features)
        if change is None:
            return Decision(True, math.nan, tau, "first")
        light = min(LIGHT_DRIFT * change.lit, LIGHT_DRIFT_OF_TAU * tau)
        drift = accumulate_drift(self._drift, max(change.novelty, light), tau, DRIFT_ALLOWANCE)
        reason = ""
        if change.novelty >= tau:
            reason = "novelty"
        elif config.drift_limit and drift >= config.drift_limit:
            reason = "drift"
        elif config.max_skip_s and stamp_ns - self._encoded_ns >= config.max_skip_s * 1e9:
            reason = "stale"
        return Decision(bool(reason), change.novelty, tau, reason, change.patches, drift=drift)

    def accept(self, decision: Decision, features: Features, stamp_ns: int) -> bool:
        """The tubelet has its embedding. If fresh, the next ones are measured against it.

        Returns:
            True if an event begins: judged by gate.tau in budget mode, too, so that an event means the same there.
        """
        config = self.config
        self._memory.accept(features, decision.encode)
        self._threshold.record(config, decision.encode, stamp_ns)
        self._drift = 0.0 if decision.encode else decision.drift
        if decision.encode:
            self._encoded_ns = stamp_ns
        return self._onsets.sees_onset(decision.novelty, config.tau, config.hysteresis, stamp_ns)

    def state(self) -> State:
        """Threshold and budget, for diagnostics and the report."""
        return self._threshold.state(self.config)


class OpenGate:
    """The gate switched off: everything is encoded, nothing is measured."""

    def __init__(self, config: GateConfig) -> None:
        self.config = config

    def decide(self, features: Features, stamp_ns: int) -> Decision:
        """Always encode."""
        return Decision(True, math.nan, math.nan, "open")

    def accept(self, decision: Decision, features: Features, stamp_ns: int) -> bool:
        """Nothing to remember, and no event."""
        return False

    def reset(self) -> None:
        """Nothing to forget."""

    def state(self) -> State:
        """Nothing to tell."""
        return {"mode": "off"}
