"""Measures of novelty, by gate.policy: what the gate compares with tau.

`predicted` is the product: the loss that reusing the last embedding would cost, 1 - centred cosine to the fresh one.
An encoder sees a window of tubelets, and its newest ones most, so what matters is by how much that window has changed.
A fading mean of the patch embeddings stands for it, and its relative change since the last encoded tubelet is all that
the prediction needs: the change of the newest tubelet, of its most changed patches, of what patches have in common, of
grey levels, compensated for illumination or not, earned nothing beside it (docs/gate.md). How much an encoder loses by
a change differs by scene, twofold and more. But each tubelet that is encoded whole tells what reuse would have
cost then: `LossScale` follows these answers. Shadow evaluations would tell as much, but are made when there is time:
decisions would depend on the clock. An embedding that has lasted longer than is usual is trusted less (`Ageing`).

The others are the simple gates that this one must beat.
"""

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from saccade_ros.config import GateConfig
from saccade_ros.frames import IMAGENET_MEAN, IMAGENET_STD, Features, Figures, Observation
from saccade_ros.plan.ageing import Ageing
from saccade_ros.plan.change import relative_change
from saccade_ros.plan.loss_scale import LossScale
from saccade_ros.plan.noise import squared_distance
from saccade_ros.plan.patch_change import PatchChange

Grey = npt.NDArray[np.float32]  # (size, size)

# The bound that the loss of 19 reused embeddings in 20 keeps, over its expectation: it scatters by half about it.
SAFETY = 1.8


class Novelty(Protocol):
    """Measure of how new a tubelet is beside the last encoded one.

    Attributes:
        underestimates: True if reuse costs more than the measure may be corrected by.
    """

    @property
    def underestimates(self) -> bool:
        """See above."""
        ...

    def measure(self, seen: Observation, patches: PatchChange) -> float:
        """Measure a tubelet; at least one was committed. Changes nothing that is remembered."""
        ...

    def commit(self, seen: Observation, encoded: bool) -> None:
        """Remember the tubelet measured last."""
        ...

    def learn(self, loss: float) -> None:
        """Take note of what reuse cost, or would have cost, in the tubelet measured last."""
        ...

    def reset(self) -> None:
        """Forget the stream."""
        ...

    def state(self) -> Figures:
        """Report figures for diagnostics and the report; may be called from any thread."""
        ...


class PredictedLoss:
    """Loss of reuse, predicted by the change of the encoder's window.

    Args:
        window: tubelets in the encoder's cache (W); the mean fades as an average over as many does.
    """

    def __init__(self, config: GateConfig, window: int) -> None:
        self._rate = 2 / (window + 1)
        self._loss_per_change, self.scale, self._ageing = config.loss_per_change, LossScale(), Ageing()
        self.reset()

    def reset(self) -> None:
        """Forget the stream, but not what it taught: the next epoch is most often the same place."""
        self._mean: Features | None = None
        self._expected = math.nan
        self._ageing.restart()

    def measure(self, seen: Observation, patches: PatchChange) -> float:
        """Predict the loss that 19 of 20 such tubelets keep."""
        assert self._mean is not None
        self._proposed = self._mean + np.float32(self._rate) * (seen.features - self._mean)  # (S, D)
        change = relative_change(
            squared_distance(self._proposed, self._reference),
            self._rate / (2 - self._rate) * patches.noise,
            patches.scale,
        )
        self._expected = self._loss_per_change * float(change.mean())
        return SAFETY * self._ageing.factor(seen.stamp_ns) * self.scale.factor * self._expected

    def commit(self, seen: Observation, encoded: bool) -> None:
        """Let the mean fade, and compare with this one from now on if the tubelet was encoded."""
        self._mean = seen.features.copy() if self._mean is None else self._proposed
        if encoded:
            self._reference = self._mean
            self._ageing.replace(seen.stamp_ns)

    def learn(self, loss: float) -> None:
        """Correct the scale."""
        self.scale.learn(self._expected, loss)

    @property
    def underestimates(self) -> bool:
        """See Novelty."""
        return self.scale.is_at_upper_limit

    def state(self) -> Figures:
        """Report by how much the losses found differ from those that the fit expects."""
        return {"loss_scale": self.scale.factor, "loss_answers": self.scale.answers}


class _SimpleMeasure:
    """Common part of the simple measures, which learn nothing from losses."""

    underestimates = False

    def __init__(self, config: GateConfig, window: int) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the stream."""

    def learn(self, loss: float) -> None:
        """Learn nothing."""

    def state(self) -> Figures:
        """Report nothing."""
        return {}


class PixelDifference(_SimpleMeasure):
    """Mean absolute difference of grey levels to the last encoded picture, as a share of white: frame differencing."""

    def reset(self) -> None:
        """Forget the stream."""
        self._reference: Grey | None = None

    def measure(self, seen: Observation, patches: PatchChange) -> float:
        """Compare the newer frames."""
        assert self._reference is not None
        return float(np.abs(_grey(seen) - self._reference).mean())

    def commit(self, seen: Observation, encoded: bool) -> None:
        """Compare with this picture from now on if it was encoded."""
        if encoded:
            self._reference = _grey(seen)


class PreviousChange(_SimpleMeasure):
    """Relative change of all patches since the previous tubelet, encoded or not: the public reference library's rule.

    Slow pans and drift never show in it.
    """

    def reset(self) -> None:
        """Forget the stream."""
        self._previous: Features | None = None

    def measure(self, seen: Observation, patches: PatchChange) -> float:
        """Compare with the previous tubelet."""
        assert self._previous is not None
        moved = np.linalg.norm(seen.features - self._previous)
        return float(moved / (np.linalg.norm(self._previous) + 1e-12))

    def commit(self, seen: Observation, encoded: bool) -> None:
        """Compare with this tubelet from now on."""
        self._previous = seen.features.copy()


class Elapsed(_SimpleMeasure):
    """Seconds of header time since the last encoded tubelet: even spacing, which looks at nothing."""

    def reset(self) -> None:
        """Forget the stream."""
        self._encoded_ns = 0

    def measure(self, seen: Observation, patches: PatchChange) -> float:
        """Tell the time."""
        return (seen.stamp_ns - self._encoded_ns) / 1e9

    def commit(self, seen: Observation, encoded: bool) -> None:
        """Count from this tubelet on if it was encoded."""
        if encoded:
            self._encoded_ns = seen.stamp_ns


# By gate.policy, whose choices are these.
POLICIES: dict[str, Callable[[GateConfig, int], Novelty]] = {
    "predicted": PredictedLoss,
    "pixels": PixelDifference,
    "previous": PreviousChange,
    "even": Elapsed,
}


def _grey(seen: Observation) -> Grey:
    """Grey levels of the newer frame, 0 to 1: (size, size)."""
    grey: Grey = np.tensordot(np.array(IMAGENET_STD, np.float32) / 3, seen.pixels[1], axes=1)  # (size, size)
    grey += np.float32(np.mean(IMAGENET_MEAN))
    return grey
