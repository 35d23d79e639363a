"""Token selection: the stage that keeps the tokens of a tubelet that are worth computing.

Each token's reference is the picture in which that token was computed last, so that slow change adds up until it
counts. A rule (tokens.select) says how far each token is off and how many of the worst are to be computed. What no
rule can see is that a changed token alters what the others attend to. That is bounded as follows, each measured on a
trained encoder (docs/tokens.md):

    refresh     each sparse step computes some of the tokens that have waited longest as well, more of them when a
                tubelet leaves the window of which much was new; what these find is context.py's
    dense       everything is computed while the window fills, and while it holds a tubelet of which most was new
    settling    after that the refreshes go on, even if nothing changes, until the old scene is out of the encoder's
                reach: deeper layers see what has left the window through keys and values that saw it
    max_age_s   no token grows older
    event       the tubelet in which one begins is computed whole, however small the change

So what a tubelet costs follows its content: a static camera computes a fifth of the tokens, one in motion all of them.
"""

import math
from collections import deque
from dataclasses import replace
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from saccade_ros.config import TokensConfig
from saccade_ros.frames import Figures, Observation, PerPatch, Pixels, TokenPlan
from saccade_ros.plan.context import UTMOST_CARE, Sample
from saccade_ros.plan.patch_change import PatchChange
from saccade_ros.plan.residual import largest, residual_energy, tokens_within, update_canvas

Mask = npt.NDArray[np.bool_]  # (S,)

REFRESH = 0.075  # of the tokens, the oldest ones, computed with each sparse step
REFRESH_LEAVING = 0.12  # of the tokens that were new in the tubelet that leaves the window, likewise
MOST_NEW = 0.8  # share of new tokens from which a tubelet is computed whole

NOTHING_KEPT = Sample(np.empty(0, np.int64), 0.0, 0.0)


class Rule(Protocol):
    """Measure of what each token is off by, and number of the worst to compute; one per choice of tokens.select.

    Attributes:
        adapts: True if the number follows the scene. If not, it is fixed: nothing is refreshed beside it.
    """

    adapts: bool

    def measure(self, seen: Observation) -> PerPatch | None:
        """Measure what each token is off by, (S,); None with nothing to compare with."""
        ...

    def count(self, error: PerPatch, config: TokensConfig, slack: float) -> int:
        """Count the tokens to compute, those of largest error; slack is Care's."""
        ...

    def commit(self, seen: Observation, token_idx: npt.NDArray[np.int64]) -> None:
        """Remember a tubelet, of which these tokens were computed, (M,)."""
        ...

    def reset(self) -> None:
        """Forget the stream."""
        ...


class ChangedTokens:
    """The fewest tokens such that the mean change that is left, over all of them, is at most tokens.threshold.

    A mean, because the embedding is one: small changes that all tokens have in common add up in it.
    """

    adapts = True

    def __init__(self, patches: PatchChange) -> None:
        self._patches = patches

    def measure(self, seen: Observation) -> PerPatch | None:
        """Measure the change of each patch."""
        return self._patches.measure(seen)

    def count(self, error: PerPatch, config: TokensConfig, slack: float) -> int:
        """Count the tokens whose change cannot be left."""
        left = np.cumsum(np.sort(error), dtype=np.float64) / len(error)  # (S,): if only the last is computed, two, ..
        return len(error) - int(np.searchsorted(left, slack * config.threshold, side="right"))

    def commit(self, seen: Observation, token_idx: npt.NDArray[np.int64]) -> None:
        """Remember the patches."""
        self._patches.commit(seen, token_idx)

    def reset(self) -> None:
        """Forget the stream."""
        self._patches.reset()


class RatioTokens(ChangedTokens):
    """A fixed share of the tokens, tokens.ratio, the most changed ones."""

    adapts = False

    def count(self, error: PerPatch, config: TokensConfig, slack: float) -> int:
        """Count the share."""
        return max(1, round(config.ratio * len(error)))


class ErrorTokens:
    """The fewest tokens such that what was computed shows the picture within tokens.psnr_db (residual.py)."""

    adapts = True

    _canvas: Pixels | None

    def __init__(self, patches: PatchChange) -> None:
        self.reset()

    def measure(self, seen: Observation) -> PerPatch | None:
        """Measure the squared error of each patch in grey levels."""
        if self._canvas is None:
            return None
        return residual_energy(seen.pixels, self._canvas, _patch_size(seen))

    def count(self, error: PerPatch, config: TokensConfig, slack: float) -> int:
        """Count the patches that the target asks for."""
        assert self._canvas is not None  # as an error was measured against it
        return len(tokens_within(error, config.psnr_db, self._canvas.size))

    def commit(self, seen: Observation, token_idx: npt.NDArray[np.int64]) -> None:
        """Show the patches that were computed."""
        if self._canvas is None:
            self._canvas = seen.pixels.copy()
        update_canvas(self._canvas, seen.pixels, token_idx, _patch_size(seen))

    def reset(self) -> None:
        """Forget the stream."""
        self._canvas = None


RULES: dict[str, type[ChangedTokens] | type[ErrorTokens]] = {
    "changed": ChangedTokens,
    "ratio": RatioTokens,
    "error": ErrorTokens,
}


class TokenSelection:
    """Stage of one stream that keeps some tokens of a plan; what it keeps and why is at the module's head.

    Args:
        config: replaced as a whole when a parameter changes; the next tubelet sees it.
        patches: the stream's.
        window: tubelets in the encoder's cache.
        reach: tubelets that an embedding sees beyond the window, through deeper layers.
        counts: numbers of tokens that the backend can compute (EncoderInfo.token_counts); plans are widened to the
            next with the tokens that are off most. Empty: any.

    Attributes:
        selects: True, as a plan may become a part of the tokens, or none.
        sample: what the plan last proposed tells of the tokens that it keeps.
        care: that the samples ask for so far; the stream sets it.
    """

    selects = True

    def __init__(
        self, config: TokensConfig, patches: PatchChange, window: int, reach: int, counts: tuple[int, ...]
    ) -> None:
        self.config, self._window, self._reach, self._counts = config, window, reach, counts
        self.care = UTMOST_CARE
        self._rule: Rule = RULES[config.select](patches)
        self.reset()

    def reset(self) -> None:
        """Forget the stream: everything is computed until the window is full."""
        self._rule.reset()
        self._computed_ns: npt.NDArray[np.int64] | None = None
        # Share of each tubelet in the window that was new, oldest first; the next tubelet pushes the first one out.
        self._new: deque[float] = deque(maxlen=self._window)
        self._new_proposed = 1.0
        self._settling = 0  # tubelets to encode until the scene before is forgotten
        self.sample = NOTHING_KEPT
        self._owed = self._owed_proposed = 0.0  # refreshes, in tokens; fractions are carried over

    def propose(self, seen: Observation, plan: TokenPlan) -> TokenPlan:
        """Keep the tokens to compute; all of them where the module's head says so.

        Raises:
            ValueError: the patches hold NaN or infinity.
        """
        error = self._rule.measure(seen)
        if error is None or self._computed_ns is None:
            self._new_proposed = 1.0
            return plan
        size = len(error)
        changed = self._rule.count(error, self.config, self.care.slack)
        self._new_proposed, self._owed_proposed, self.sample = changed / size, 0.0, NOTHING_KEPT
        if not plan.size or plan.reason in ("stale", "event") or self._is_dense():
            return plan
        age_s = (seen.stamp_ns - self._computed_ns) / 1e9  # (S,)
        chosen_mask = dilated(_worst(error, changed), self.config.dilate)
        if self.config.max_age_s:
            chosen_mask |= age_s >= self.config.max_age_s
        refreshed_mask = self._oldest(age_s, chosen_mask, changed)
        chosen_mask |= refreshed_mask
        count = self._supported(int(chosen_mask.sum()))
        chosen_mask |= _worst(np.where(chosen_mask, np.inf, error), count)
        self.sample = _sample(age_s, refreshed_mask, chosen_mask)
        return replace(plan, token_idx=np.flatnonzero(chosen_mask)) if count else TokenPlan.reuse()

    def _is_dense(self) -> bool:
        """True while the window fills, and from a tubelet of which most is new until that leaves the window."""
        if len(self._new) < self._window:
            return True
        return self._rule.adapts and max(self._new_proposed, *self._new) >= MOST_NEW

    def _oldest(self, age_s: npt.NDArray[np.float64], chosen_mask: Mask, changed: int) -> Mask:
        """Choose the tokens to refresh."""
        size = len(age_s)
        if not self._rule.adapts:
            return np.zeros(size, np.bool_)
        due = (REFRESH if changed or self._settling else 0.0) + REFRESH_LEAVING * self._new[0]
        owed = self._owed + self.care.pace * due * size
        self._owed_proposed = owed % 1
        return _worst(np.where(chosen_mask, -1.0, age_s), min(int(owed), size - int(chosen_mask.sum())))

    def _supported(self, count: int) -> int:
        """Smallest number of tokens that the backend can compute and that is not less."""
        return min((c for c in self._counts if c >= count), default=count) if count else 0

    def commit(self, seen: Observation, plan: TokenPlan) -> None:
        """Remember the tubelet proposed last, of which the tokens of `plan` were computed."""
        self._rule.commit(seen, plan.token_idx)
        if self._computed_ns is None:
            self._computed_ns = np.zeros(len(seen.features), np.int64)
        self._computed_ns[plan.token_idx] = seen.stamp_ns
        if plan.size:
            self._settling = self._reach if self._is_dense() else max(0, self._settling - 1)
            self._new.append(self._new_proposed)
            self._owed = self._owed_proposed

    def state(self) -> Figures:
        """Report the rule."""
        return {"tokens_select": self.config.select}


class AllTokens:
    """Selection switched off: every plan is kept as it comes."""

    sample = NOTHING_KEPT
    selects = False

    def __init__(self, config: TokensConfig) -> None:
        self.config = config
        self.care = UTMOST_CARE

    def propose(self, seen: Observation, plan: TokenPlan) -> TokenPlan:
        """Keep the plan."""
        return plan

    def commit(self, seen: Observation, plan: TokenPlan) -> None:
        """Remember nothing."""

    def reset(self) -> None:
        """Forget nothing."""

    def state(self) -> Figures:
        """Report that all are computed."""
        return {"tokens_select": "all"}


def _sample(age_s: npt.NDArray[np.float64], refreshed_mask: Mask, chosen_mask: Mask) -> Sample:
    """Describe the refreshed tokens and those that are kept, by their ages (S,)."""
    refreshed_s = float(age_s[refreshed_mask].mean()) if refreshed_mask.any() else 0.0
    return Sample(np.flatnonzero(refreshed_mask), refreshed_s, float(np.where(chosen_mask, 0, age_s).mean()))


def _worst(error: npt.NDArray[np.floating[Any]], count: int) -> Mask:
    """Mark the `count` tokens of largest error, the first of equal ones: (S,)."""
    mask = np.zeros(len(error), np.bool_)
    mask[largest(error, count)] = True
    return mask


def dilated(mask: Mask, steps: int) -> Mask:
    """Mark the patches within `steps` of a marked one as well, diagonals included: (S,)."""
    if not steps:
        return mask
    grid = math.isqrt(len(mask))
    kernel = np.ones((2 * steps + 1, 2 * steps + 1), np.uint8)
    grown: Mask = cv2.dilate(mask.reshape(grid, grid).astype(np.uint8), kernel).reshape(-1).astype(np.bool_)  # (S,)
    return grown


def _patch_size(seen: Observation) -> int:
    """Side of a patch in pixels."""
    return int(seen.pixels.shape[-1]) // math.isqrt(len(seen.features))


def select_tokens(
    config: TokensConfig, patches: PatchChange, window: int, reach: int, counts: tuple[int, ...]
) -> TokenSelection | AllTokens:
    """Make the selection that tokens.select names; none where the encoder computes whole tubelets only."""
    if config.select == "all" or len(counts) == 1:
        return AllTokens(config)
    return TokenSelection(config, patches, window, reach, counts)
