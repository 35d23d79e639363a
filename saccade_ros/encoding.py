"""Encoding of one stream's tubelets by their plans: step, reuse, and shadow evaluation; and the last embedding."""

import math
import time
from typing import Any

import numpy as np

from saccade_ros import default_model
from saccade_ros.backends import Backend
from saccade_ros.backends.base import StepRequest, unit
from saccade_ros.config import Config
from saccade_ros.faults import passing, strike
from saccade_ros.frames import TokenPlan, Vector
from saccade_ros.heads import UNCLASSIFIED, Head
from saccade_ros.plan.centre import decode_centre
from saccade_ros.plan.context import Care, ContextDrift, Sample
from saccade_ros.plan.shadow import FidelityMonitor, is_shadowed
from saccade_ros.stepping import Work


class Encoding:
    """One stream's state in the encoder, and its last embedding.

    Attributes:
        vector: last embedding, fresh or corrected, (dim,); None before the first.
        classification: of it.
        encoded_stamp_ns: stamp of the tubelet that it was computed from.
        fill: tubelets in the cache that it was computed from, itself included.
        reuse_count: how many tubelets in a row it has been reused for.
        tokens_computed: for the last tubelet, those of a step that could not stand included.
        reuse_loss: what reuse would have cost where the last step computed all tokens; NaN where that is not known.
        shadow: shadow evaluations of reused embeddings.
    """

    vector: Vector | None

    def __init__(self, config: Config, backend: Backend, head: Head) -> None:
        self._state, self._head, self._holds = backend.new_state(), head, backend.info.holds
        self._normalize, self._is_mean = config.encoder.normalize, config.encoder.pooling == "newest"
        self._drift, self._window = ContextDrift(backend.info.window), backend.info.window
        text = config.gate.centre or default_model.centre(config.encoder.model)
        self.shadow = FidelityMonitor(decode_centre(text, backend.info.dim) if text else None)
        self._skips = 0
        self.reset()

    def reset(self) -> None:
        """Forget everything seen: an empty cache, and nothing to reuse."""
        self._state.reset()
        self._drift.reset()
        self.vector = None
        self._skipped: Any = None  # patches of the last tubelet, if its embedding was reused
        self.classification = UNCLASSIFIED
        self.encoded_stamp_ns = self.fill = self.reuse_count = self.tokens_computed = 0
        self._held = 0  # tubelets that the last encoded one stands for in the cache, beside itself
        self.reuse_loss = math.nan

    @property
    def care(self) -> Care:
        """Care that the drift of the tokens asks of their selection."""
        return self._drift.care

    def encode(self, patches: Any, plan: TokenPlan, tokens: int, sample: Sample, stamp_ns: int) -> Work[TokenPlan]:
        """Compute the planned tokens; the embedding is the stream's from now on.

        Args:
            patches: the backend's own, from `Backend.embed`.
            plan: at least one token.
            tokens: how many the tubelet has (S).
            sample: what the plan tells of the tokens that it keeps.

        Returns:
            The plan as it was computed in the end: whole, where the sample was too far off.

        Raises:
            ArithmeticError: the encoder gave NaN or infinity; everything seen is forgotten, as it may be in the cache.
        """
        self._let_time_pass()
        strike("step")
        if plan.size == tokens:
            vector = yield from self._whole(patches, tokens)
        elif self._drift.pauses:
            plan, vector = TokenPlan.dense(tokens, plan.reason), (yield from self._whole(patches, tokens))
            self._drift.pass_pause()
        else:
            plan, vector = yield from self._sparse(patches, plan, tokens, sample)
        vector = passing("output", vector)
        if not np.isfinite(vector).all():
            self.reset()
            raise ArithmeticError(
                "the encoder's embedding is NaN or infinite: check the weights; the stream starts afresh"
            )
        before, self.vector = self.vector, self._scaled(vector)
        whole = before is not None and plan.size == tokens
        self.reuse_loss = self.shadow.loss(before, self.vector) if before is not None and whole else math.nan
        self.classification = self._head.classify(self.vector)
        self.encoded_stamp_ns, self.fill, self.reuse_count, self._held = stamp_ns, self._state.fill, 0, 0
        self.shadow.record_fresh(self.vector)
        return plan

    def _whole(self, patches: Any, tokens: int) -> Work[Vector]:
        """Compute all tokens."""
        vector = yield StepRequest(self._state, patches)
        self._drift.forget()
        self.tokens_computed = tokens
        return vector

    def _sparse(self, patches: Any, plan: TokenPlan, tokens: int, sample: Sample) -> Work[tuple[TokenPlan, Vector]]:
        """Compute the planned tokens, and then all, if the sample is too far off; as `encode`, but not scaled.

        What is learnt is learnt last, so that a tubelet that raises leaves no trace.
        """
        vector, computed = (yield StepRequest(self._state, patches, plan.token_idx)), plan.size
        if len(sample.token_idx):
            movement, spread = self._state.movement(sample.token_idx)
            if self._drift.is_far(movement, spread, sample):
                vector = self._state.complete(patches)
                self._drift.postpone()
                self.tokens_computed = computed + tokens
                return TokenPlan.dense(tokens, plan.reason), vector
            self._drift.learn(movement, spread, sample)
        self.tokens_computed = computed
        return plan, self._drift.correct(vector, sample) if self._is_mean else vector

    def reuse(self, patches: Any) -> None:
        """Let the last embedding serve again; keep the patches for a shadow evaluation."""
        self._let_time_pass()
        self.reuse_count, self._skips, self._skipped = self.reuse_count + 1, self._skips + 1, patches
        self.tokens_computed, self.reuse_loss = 0, math.nan

    def _let_time_pass(self) -> None:
        """Let the newest tubelet in the cache stand for the one reused before this one, too.

        So the window keeps spanning the same time whatever is skipped. It is done late, as a shadow evaluation may come
        between; once for each, though the step that follows may fail; and a window in which all tubelets are the same
        one needs it no more.
        """
        self._skipped = None  # its own time is past
        if self._holds and self._held < min(self.reuse_count, self._window - 1):
            self._state.hold()
            self._held += 1

    def is_shadow_due(self, rate: float) -> bool:
        """True if the last tubelet was reused and this rate asks for its shadow evaluation."""
        return self._skipped is not None and is_shadowed(self._skips, rate)

    def evaluate_shadow(self) -> float:
        """Encode the tubelet that was just skipped, without a trace, and note how wrong reuse was.

        Returns:
            The milliseconds it took.

        Raises:
            RuntimeError: no tubelet was skipped.
        """
        if self._skipped is None or self.vector is None:
            raise RuntimeError("no skipped tubelet to evaluate: ask shadow_due first")
        started_s = time.perf_counter()
        patches, self._skipped = self._skipped, None
        self.shadow.record_shadow(self.vector, self._scaled(self._state.peek(patches)))
        return (time.perf_counter() - started_s) * 1e3

    def _scaled(self, vector: Vector) -> Vector:
        """Scale to length 1 if encoder.normalize asks for it."""
        return unit(vector).astype(np.float32) if self._normalize else vector
