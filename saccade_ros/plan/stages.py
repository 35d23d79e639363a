"""Stages that plan which tokens of a tubelet are computed.

Planning has two phases, so that a step that fails leaves no trace: each stage proposes, and only after the step
succeeded does each commit, that is, remember.
"""

from typing import Protocol

import numpy as np

from saccade_ros.frames import Figures, Observation, TokenPlan


class Stage(Protocol):
    """One rule of one stream that removes tokens from a plan."""

    def propose(self, seen: Observation, plan: TokenPlan) -> TokenPlan:
        """Narrow `plan` for this tubelet. Changes nothing that is remembered."""
        ...

    def commit(self, seen: Observation, plan: TokenPlan) -> None:
        """Remember the tubelet proposed last: its step succeeded.

        Args:
            plan: the tokens that were computed in the end.
        """
        ...

    def reset(self) -> None:
        """Forget the stream."""
        ...

    def state(self) -> Figures:
        """Report figures for diagnostics and the report; may be called from any thread."""
        ...


class Planner:
    """All stages of one stream, in the order in which they narrow the plan."""

    def __init__(self, stages: tuple[Stage, ...]) -> None:
        self._stages = stages

    def propose(self, seen: Observation) -> TokenPlan:
        """Plan one tubelet, starting from all its tokens. Changes nothing that is remembered.

        Raises:
            RuntimeError: a stage added tokens to the plan it was given.
            ValueError: from a stage, the patches hold NaN or infinity.
        """
        plan = TokenPlan.dense(len(seen.features), "dense")
        for stage in self._stages:
            narrowed = stage.propose(seen, plan)
            if not _is_within(narrowed, plan):
                name, added = type(stage).__name__, np.setdiff1d(narrowed.token_idx, plan.token_idx)
                raise RuntimeError(f"{name} added tokens {added} to the plan it was given: it may only remove tokens")
            plan = narrowed
        return plan

    def commit(self, seen: Observation, plan: TokenPlan) -> None:
        """Let all stages remember the tubelet proposed last, of which the tokens of `plan` were computed."""
        for stage in self._stages:
            stage.commit(seen, plan)

    def reset(self) -> None:
        """Forget the stream."""
        for stage in self._stages:
            stage.reset()

    def state(self) -> Figures:
        """Report the figures of all stages."""
        figures: Figures = {}
        for stage in self._stages:
            figures |= stage.state()
        return figures


def _is_within(narrowed: TokenPlan, plan: TokenPlan) -> bool:
    """True if all tokens of `narrowed` are in `plan`; both are ascending, so that a search takes microseconds."""
    if narrowed.size > plan.size:
        return False
    place_idx = np.searchsorted(plan.token_idx, narrowed.token_idx)  # (M,)
    return bool((plan.token_idx.take(place_idx, mode="clip") == narrowed.token_idx).all())
