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
from saccade_ros.plan.change import outstanding_change
from saccade_ros.plan.novelty import POLICIES
from saccade_ros.plan.onset import OnsetDetector
from saccade_ros.plan.patch_change import PatchChange
from saccade_ros.plan.stages import Stage
from saccade_ros.plan.threshold import choose_threshold


class Surprise(NamedTuple):
    """Measurement of one tubelet against the last encoded one.

    Attributes:
        novelty: what gate.policy measures, the predicted loss of reuse by default; 0 = identical; NaN with nothing to
            compare with or with the gate off.
        threshold: tau that novelty is compared with; NaN with the gate off.
        patches: relative change of each patch since it was computed last, (S,); None where novelty is NaN.
    """

    novelty: float
    threshold: float
    patches: PerPatch | None


NOTHING_SEEN = Surprise(math.nan, math.nan, None)


class Gate(Stage, Protocol):
    """First stage of one stream.

    Attributes:
        config: replaced as a whole when a parameter changes; the next tubelet sees it.
        measured: of the tubelet last proposed.
        onset: True if an event begins with the tubelet last proposed.
    """

    config: GateConfig
    measured: Surprise
    onset: bool

    @property
    def underestimates(self) -> bool:
        """True if reuse costs more than the prediction may be corrected by: the gate was fitted to something else."""
        ...

    def learn(self, loss: float) -> None:
        """Take note of what reuse cost, or would have cost, in the tubelet last proposed; NaN if nobody knows."""
        ...


class SurpriseGate:
    """Gate that opens for novelty of tau, at the onset of an event, and for an embedding that is max_skip_s old.

    It also opens when there is no embedding to reuse. The plan's reason is novelty, event, stale or first. An event is
    a change of some patches that stands out from that of the others, after calm, however little the embedding loses.

    Args:
        patches: the stream's.
        window: tubelets in the encoder's cache.
        selects_tokens: True if a token selection follows. It sees each patch, and plans nothing where none changed; so
            the gate keeps the other plans as well, with reason change. Two thresholds in a row would cost more
            fidelity than either. A budget is held by the gate all the same.
    """

    def __init__(self, config: GateConfig, patches: PatchChange, window: int, selects_tokens: bool = False) -> None:
        self.config, self._patches, self._selects_tokens = config, patches, selects_tokens
        self._novelty = POLICIES[config.policy](config, window)
        self._threshold = choose_threshold(config)
        self._onsets = OnsetDetector()
        self.reset()

    def reset(self) -> None:
        """Forget the stream: the next tubelet is encoded. The budget's tau and the scale of losses stay."""
        self.measured, self.onset = NOTHING_SEEN, False
        self._patches.reset()
        self._novelty.reset()
        self._onsets.reset()
        self._threshold.restart()
        self._encoded_ns = 0

    def propose(self, seen: Observation, plan: TokenPlan) -> TokenPlan:
        """Measure a tubelet; keep the plan, with the reason, or plan nothing.

        Raises:
            ValueError: the patches hold NaN or infinity.
        """
        config, tau = self.config, self._threshold.tau(self.config)
        patches, self.onset = self._patches.measure(seen), False
        if patches is None:
            self.measured = Surprise(math.nan, tau, None)
            return replace(plan, reason="first")
        self.measured = Surprise(self._novelty.measure(seen, self._patches), tau, patches)
        self.onset = self._onsets.propose(self._outstanding(seen), config, seen.stamp_ns)
        if self.measured.novelty >= tau:
            return replace(plan, reason="novelty")
        if self.onset:
            return replace(plan, reason="event")
        if config.max_skip_s and seen.stamp_ns - self._encoded_ns >= config.max_skip_s * 1e9:
            return replace(plan, reason="stale")
        if self._selects_tokens and config.mode == "fixed":
            return replace(plan, reason="change")
        return TokenPlan.reuse()

    def _outstanding(self, seen: Observation) -> float:
        """Sudden change of some patches: since the previous tubelet, so that what has moved on leaves no ghost."""
        return outstanding_change(self._patches.measure_step(seen.features), self.config.top_fraction)

    def commit(self, seen: Observation, plan: TokenPlan) -> None:
        """Remember the tubelet proposed last; the next ones are compared with those of its patches that were computed.

        The budget is in tokens: a tubelet of which a tenth is computed spends a tenth of an encode.
        """
        encoded = plan.size > 0
        self._patches.commit(seen, plan.token_idx)
        self._novelty.commit(seen, encoded)
        self._onsets.commit()
        self._threshold.record(self.config, plan.size / len(seen.features), seen.stamp_ns)
        if encoded:
            self._encoded_ns = seen.stamp_ns

    def learn(self, loss: float) -> None:
        """See Gate."""
        self._novelty.learn(loss)

    @property
    def underestimates(self) -> bool:
        """See Gate."""
        return self._novelty.underestimates

    def state(self) -> Figures:
        """Report threshold, budget, and the scale of predicted losses."""
        return {**self._threshold.state(self.config), **self._novelty.state()}


class OpenGate:
    """Gate switched off: it keeps every plan as it comes, with reason open, and measures nothing."""

    def __init__(self, config: GateConfig) -> None:
        self.config, self.measured, self.onset, self.underestimates = config, NOTHING_SEEN, False, False

    def propose(self, seen: Observation, plan: TokenPlan) -> TokenPlan:
        """Keep the plan."""
        return replace(plan, reason="open")

    def commit(self, seen: Observation, plan: TokenPlan) -> None:
        """Remember nothing."""

    def learn(self, loss: float) -> None:
        """Learn nothing."""

    def reset(self) -> None:
        """Forget nothing."""

    def state(self) -> Figures:
        """Report that the gate is off."""
        return {"mode": "off"}
