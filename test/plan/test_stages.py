"""Stages in a row: the surprise gate with a second, simple one after it."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scenes import PERIOD_NS

from saccade_ros.config import GateConfig
from saccade_ros.frames import Features, Figures, Observation, TokenPlan
from saccade_ros.plan.change import PatchResponse
from saccade_ros.plan.gate import SurpriseGate
from saccade_ros.plan.patch_change import PatchChange
from saccade_ros.plan.stages import Planner

BLIND = PatchResponse(grey=np.zeros(8, np.float32), white=0.0)
SCENE = np.eye(4, 8, dtype=np.float32)
ALL = np.arange(4)
NO_PIXELS = np.empty((2, 3, 0, 0), np.float32)


def seen(features: Features, stamp_ns: int) -> Observation:
    return Observation(features, stamp_ns, NO_PIXELS)


def changed(by: float, *patches: int) -> Features:
    """The scene with these patches changed, in a direction that is no gain."""
    features = SCENE.copy()
    features[list(patches), 7] += by
    return features


class ChangedTokens:
    """Keep the tokens that differ from when they were last computed; all of them at first."""

    def __init__(self) -> None:
        self.reset()

    def propose(self, seen: Observation, plan: TokenPlan) -> TokenPlan:
        if self._computed is None:
            return plan
        differs_mask = (seen.features != self._computed).any(axis=1)  # (S,)
        return replace(plan, token_idx=plan.token_idx[differs_mask[plan.token_idx]])

    def commit(self, seen: Observation, plan: TokenPlan) -> None:
        if self._computed is None:
            self._computed = np.zeros_like(seen.features)
        self._computed[plan.token_idx] = seen.features[plan.token_idx]
        self._tokens += plan.size

    def reset(self) -> None:
        self._computed: Features | None = None
        self._tokens = 0

    def state(self) -> Figures:
        return {"tokens": self._tokens}


class Fixed(ChangedTokens):
    """Plan these tokens, whatever is given."""

    def __init__(self, tokens: list[int]) -> None:
        super().__init__()
        self._planned = tokens

    def propose(self, seen: Observation, plan: TokenPlan) -> TokenPlan:
        return TokenPlan(np.array(self._planned, np.int64), plan.reason)


def gate() -> SurpriseGate:
    return SurpriseGate(GateConfig(tau=0.02, loss_per_change=0.5, event_change=10.0), PatchChange(BLIND), window=8)


def run(planner: Planner, *tubelets: Features) -> list[tuple[list[int], str]]:
    """Propose and commit each; the tokens planned, and why."""
    plans = []
    for t, patches in enumerate(tubelets):
        plan = planner.propose(seen(patches, t * PERIOD_NS))
        planner.commit(seen(patches, t * PERIOD_NS), plan)
        plans.append((plan.token_idx.tolist(), plan.reason))
    return plans


def test_gate_alone_plans_all_tokens_or_none():
    plans = run(Planner((gate(),)), SCENE, SCENE, changed(0.5, 3), changed(0.5, 3))
    assert plans == [([0, 1, 2, 3], "first"), ([], ""), ([0, 1, 2, 3], "novelty"), ([], "")]


def test_plan_without_a_stage_is_dense():
    plan = Planner(()).propose(seen(SCENE, 0))
    assert np.array_equal(plan.token_idx, ALL)


def test_second_stage_narrows_what_the_gate_lets_through():
    planner = Planner((gate(), ChangedTokens()))
    plans = run(planner, SCENE, changed(0.01, 1), changed(0.5, 1, 3))
    assert plans == [([0, 1, 2, 3], "first"), ([], ""), ([1, 3], "novelty")]
    assert planner.state() == {"mode": "fixed", "tau": 0.02, "loss_scale": 1.0, "loss_answers": 0, "tokens": 6}


@pytest.mark.parametrize(
    ("given", "proposed", "added"),
    [
        ([0, 2], [0, 1, 2], "[1]"),
        ([0, 2], [0, 3], "[3]"),
        ([0, 2], [1], "[1]"),
        ([1, 2], [0, 2], "[0]"),
        ([], [3], "[3]"),
        ([0, 2], [7], "[7]"),
    ],
)
def test_stage_that_adds_tokens_is_an_error_that_names_it(given, proposed, added):
    planner = Planner((Fixed(given), Fixed(proposed)))
    with pytest.raises(RuntimeError, match=f"Fixed added tokens {re.escape(added)}"):
        planner.propose(seen(SCENE, 0))


@pytest.mark.parametrize("proposed", [[], [0], [2], [0, 2]])
def test_stage_may_keep_any_of_the_tokens(proposed):
    plan = Planner((Fixed([0, 2]), Fixed(proposed))).propose(seen(SCENE, 0))
    assert plan.token_idx.tolist() == proposed


def test_tubelet_whose_step_fails_leaves_no_trace_in_any_stage():
    """Proposed and never committed: the plans of all others are as if it had not been."""
    shown = [SCENE, SCENE, changed(0.1, 0), changed(0.5, 3), changed(0.5, 3), changed(0.6, 2), SCENE]
    plain, disturbed = (Planner((gate(), ChangedTokens())) for _ in range(2))
    expected, plans = run(plain, *shown), []
    for t, patches in enumerate(shown):
        for failed in (changed(2.0, 0, 1), SCENE):
            disturbed.propose(seen(failed, t * PERIOD_NS - 1))
        plan = disturbed.propose(seen(patches, t * PERIOD_NS))
        disturbed.commit(seen(patches, t * PERIOD_NS), plan)
        plans.append((plan.token_idx.tolist(), plan.reason))
    assert plans == expected
    assert disturbed.state() == plain.state()


def test_every_stage_hears_what_was_computed_in_the_end():
    """The gate proposed all tokens, the stage after it two; both remember two."""
    first, second = ChangedTokens(), Fixed([0, 2])
    run(Planner((first, second)), SCENE)
    assert (first.state(), second.state()) == ({"tokens": 2}, {"tokens": 2})


def test_reset_reaches_every_stage():
    planner = Planner((gate(), ChangedTokens()))
    run(planner, SCENE, changed(0.5, 3))
    planner.reset()
    assert planner.state()["tokens"] == 0
    assert run(planner, SCENE) == [([0, 1, 2, 3], "first")]
