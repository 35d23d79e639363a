"""Novelty of a tubelet's patches against the last *encoded* tubelet, and the decision to encode.

The reference is the last encoded tubelet, not the previous one: a pan too slow for any single step to notice, or a
slow change of light, adds up until it fires.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from saccade_ros.config import GateConfig

Features = npt.NDArray[np.float32]  # (S, D) patch embeddings

# A patch's change is measured against its reference, but never against less than this share of the response to white
# noise of unit variance in normalised pixels: in a dark or featureless scene sensor noise must not look like news.
# With 0.5, independent noise of sigma s (of 255) reads at most sqrt(2) * (s/255/0.225) / 0.5, i.e. 0.1 for s = 2.
SCALE_FLOOR = 0.5


@dataclass(frozen=True)
class Decision:
    """What the gate says of a tubelet.

    Attributes:
        encode: True to run the encoder.
        novelty: relative change, 0 = identical; NaN without a reference or with the gate off.
        threshold: tau at this decision; NaN with the gate off.
    """

    encode: bool
    novelty: float
    threshold: float


class Gate(Protocol):
    """One stream's gate. `decide` asks, `accept` tells it that the tubelet was encoded."""

    def decide(self, features: Features, stamp_ns: int) -> Decision: ...
    def accept(self, features: Features, stamp_ns: int) -> None: ...
    def reset(self) -> None: ...


def novelty(features: Features, reference: Features, top_share: float, patch_scale: float) -> float:
    """Mean relative change of the most changed patches.

    A mean over the whole picture is blind to small movers (on real clips the most changed patch moves 11 to 34 times
    the mean), so only the top share counts, at least one patch.

    Args:
        features, reference: patch embeddings (S, D).
        top_share: share of the S patches that counts.
        patch_scale: norm of a patch embedding's response to white noise of unit variance.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    change = np.linalg.norm(features - reference, axis=1)  # (S,)
    size = np.linalg.norm(reference, axis=1)  # (S,)
    relative = change / np.maximum(size, max(float(size.mean()), SCALE_FLOOR * patch_scale))  # (S,)
    top = max(1, round(top_share * len(relative)))
    result = float(np.partition(relative, -top)[-top:].mean())
    if not math.isfinite(result):
        raise ValueError("novelty is not finite: the tubelet's pixels or the patch weights hold NaN or infinity")
    return result


class SurpriseGate:
    """Opens when novelty reaches tau, when the embedding is max_skip_s old, and when there is nothing to reuse."""

    def __init__(self, config: GateConfig, patch_scale: float) -> None:
        self.config = config  # replaced as a whole when a parameter changes; the next tubelet sees it
        self._patch_scale = patch_scale
        self.reset()

    def reset(self) -> None:
        """Forget the reference: the next tubelet is encoded."""
        self._reference: Features | None = None
        self._reference_stamp_ns = 0

    def decide(self, features: Features, stamp_ns: int) -> Decision:
        """Compare a tubelet with the last encoded one. Changes nothing."""
        config = self.config
        if self._reference is None:
            return Decision(True, math.nan, config.tau)
        change = novelty(features, self._reference, config.top_share, self._patch_scale)
        stale = bool(config.max_skip_s) and stamp_ns - self._reference_stamp_ns >= config.max_skip_s * 1e9
        return Decision(change >= config.tau or stale, change, config.tau)

    def accept(self, features: Features, stamp_ns: int) -> None:
        """This tubelet was encoded: measure the next ones against it."""
        self._reference, self._reference_stamp_ns = features, stamp_ns


class OpenGate:
    """The gate switched off: everything is encoded, nothing is measured."""

    def decide(self, features: Features, stamp_ns: int) -> Decision:
        """Always encode."""
        return Decision(True, math.nan, math.nan)

    def accept(self, features: Features, stamp_ns: int) -> None:
        """Nothing to remember."""

    def reset(self) -> None:
        """Nothing to forget."""
