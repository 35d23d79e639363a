"""A stream of a loaded backend whose cache is full: its steps, dense and sparse, ready to be timed."""

import time
from collections.abc import Callable

import numpy as np

from saccade_ros.backends.base import Backend
from saccade_ros.encoder.positions import Indices


class FullCache:
    """One stream that has seen a window of noise. Its steps take as long as those of any scene.

    Attributes:
        tokens: of a tubelet, S.
        counts: numbers of tokens that a step can compute, as EncoderInfo has them.
        first_s: seconds of the first step, in which a runtime may prepare what it needs.
    """

    def __init__(self, backend: Backend) -> None:
        info = backend.info
        size, self.counts = info.input_size, info.token_counts
        noise = np.random.default_rng(0).standard_normal((2, 3, size, size)).astype(np.float32)
        embedded = backend.embed(noise)
        self._patches, self.tokens, self._state = embedded.patches, len(embedded.features), backend.new_state()
        started = time.perf_counter()
        self.encode()
        self.first_s = time.perf_counter() - started
        fill = self._state.hold if info.holds else self.encode  # what is held costs nothing, and fills a slot as well
        for _ in range(info.window):
            fill()

    def encode(self) -> None:
        """Encode the noise again, all of it."""
        self._state.step(self._patches)

    def computed(self, share: float) -> int:
        """Tokens that a step of this share of them computes: the next number that the backend can, M."""
        wanted = max(1, round(share * self.tokens))
        return next((count for count in self.counts if count >= wanted), wanted)

    def sparse(self, share: float) -> Callable[[], object]:
        """Make the step that encodes this share of the tokens of the noise."""
        token_idx = spread_evenly(self.computed(share), self.tokens)

        def step() -> None:
            """Encode these tokens again."""
            self._state.step(self._patches, token_idx)

        return step


def spread_evenly(count: int, tokens: int) -> Indices:
    """Choose some of the tokens at even distances: (M,)."""
    return np.linspace(0, tokens - 1, count, dtype=np.int64)
