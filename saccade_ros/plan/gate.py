"""Surprise gate: the stage that keeps the plan of a tubelet, or plans nothing.

A tubelet is compared with the last encoded one, not with the previous one, so that a pan or a change of illumination
too slow to show in any single step adds up until the gate opens. Where only some tokens were computed, each patch is
compared with the picture in which it was computed last.
"""

import math
from dataclasses import replace
from typing import NamedTuple, Protocol

from saccade_ros.config import GateConfig
from saccade_ros.frames import Figures, Observation, PerPatch, TokenPlan
from saccade_ros.plan.drift import accumulate_drift, drifting_change
from saccade_ros.plan.onset import OnsetDetector
from saccade_ros.plan.reference import PatchReference, PatchResponse
from saccade_ros.plan.stages import Stage
from saccade_ros.plan.threshold import choose_threshold


class Surprise(NamedTuple):
    """Measurement of one tubelet against the last encoded one.

    Attributes:
        novelty: relative change, 0 = identical; NaN with nothing to compare with or with the gate off.
        threshold: tau that novelty is compared with; NaN with the gate off.
        patches: novelty of each patch, (S,); None where novelty is NaN.
    """

    novelty: float
    threshold: float
    patches: PerPatch | None


class Gate(Stage, Protocol):
    """First stage of one stream.

    Attributes:
        config: replaced as a whole when a parameter changes; the next tubelet sees it.
        measured: of the tubelet last proposed.
        onset: True if an event begins with the tubelet last committed.
    """

    config: GateConfig
    measured: Surprise
    onset: bool


class SurpriseGate:
    """Gate that opens for novelty of tau, for small changes that add up, and for an embedding that is max_skip_s old.

    It also opens when there is no embedding to reuse. The plan's reason is novelty, drift, stale or first.

    Args:
        selects_tokens: True if a token selection follows. It sees each patch, and plans nothing where none changed; so
            a fixed tau then tells events, and the gate keeps the other plans as well, with reason change. Two
            thresholds in a row would cost more fidelity than either. A budget is held by the gate all the same.
    """

    def __init__(self, config: GateConfig, response: PatchResponse, selects_tokens: bool = False) -> None:
        self.config, self._selects_tokens = config, selects_tokens
        self._reference = PatchReference(response, config.top_fraction)
        self._threshold = choose_threshold(config)
        self._onsets = OnsetDetector()
        self.reset()

    def reset(self) -> None:
        """Forget the stream: the next tubelet is encoded. Only the budget's tau stays, as the budget is the robot's."""
        self.measured = Surprise(math.nan, math.nan, None)
        self.onset = False
        self._reference.reset()
        self._onsets.reset()
        self._threshold.restart()
        self._drift = self._drift_if_skipped = 0.0
        self._encoded_ns = 0

    def propose(self, seen: Observation, plan: TokenPlan) -> TokenPlan:
        """Measure a tubelet; keep the plan, with the reason, or plan nothing.

        Raises:
            ValueError: the patches hold NaN or infinity.
        """
        config, tau = self.config, self._threshold.tau(self.config)
        change = self._reference.measure(seen.features)
        if change is None:
            self.measured = Surprise(math.nan, tau, None)
            return replace(plan, reason="first")
        self.measured = Surprise(change.novelty, tau, change.patches)
        drifting = drifting_change(change.novelty, change.uncompensated, tau)
        self._drift_if_skipped = accumulate_drift(self._drift, drifting, tau)
        if change.novelty >= tau:
            return replace(plan, reason="novelty")
        if config.drift_limit and self._drift_if_skipped >= config.drift_limit:
            return replace(plan, reason="drift")
        if config.max_skip_s and seen.stamp_ns - self._encoded_ns >= config.max_skip_s * 1e9:
            return replace(plan, reason="stale")
        if self._selects_tokens and config.mode == "fixed":
            return replace(plan, reason="change")
        return TokenPlan.reuse()

    def commit(self, seen: Observation, plan: TokenPlan) -> None:
        """Remember the tubelet proposed last; the next ones are compared with those of its patches that were computed.

        The budget is in tokens: a tubelet of which a tenth is computed spends a tenth of an encode.

        An onset is judged by gate.tau in budget mode, too, so that an event means the same there.
        """
        config, encoded, stamp_ns = self.config, plan.size > 0, seen.stamp_ns
        self._reference.commit(seen.features, plan.token_idx)
        self._threshold.record(config, plan.size / len(seen.features), stamp_ns)
        self._drift = 0.0 if encoded else self._drift_if_skipped
        if encoded:
            self._encoded_ns = stamp_ns
        self.onset = self._onsets.detect(self.measured.novelty, config.tau, config.hysteresis, stamp_ns)

    def state(self) -> Figures:
        """Report threshold and budget."""
        return self._threshold.state(self.config)


class OpenGate:
    """Gate switched off: it keeps every plan as it comes, with reason open, and measures nothing."""

    def __init__(self, config: GateConfig) -> None:
        self.config = config
        self.measured = Surprise(math.nan, math.nan, None)
        self.onset = False

    def propose(self, seen: Observation, plan: TokenPlan) -> TokenPlan:
        """Keep the plan."""
        return replace(plan, reason="open")

    def commit(self, seen: Observation, plan: TokenPlan) -> None:
        """Remember nothing."""

    def reset(self) -> None:
        """Forget nothing."""

    def state(self) -> Figures:
        """Report that the gate is off."""
        return {"mode": "off"}
