"""One stream's patches in time: the last encoded tubelet, the one before this, and each patch's noise.

Everything lies in memory allocated once, so that measuring a tubelet is four passes over its features.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from saccade_ros.frames import Features, PerPatch
from saccade_ros.plan.signals import (
    combine,
    common_change,
    first_noise,
    light_evidence,
    light_gram,
    patch_scale,
    relative_change,
    remove_light,
    top_mean,
    track_noise,
)


class PatchResponse(NamedTuple):
    """What a patch embedding makes of pictures that are known: it is linear, so three of them say how it sees light.

    Attributes:
        grey: response to a picture of zeros in normalised pixels, the bias: (D,).
        uniform: to red, green and blue of one, minus grey: (3, D).
        white: norm of the response to white noise of unit variance.
    """

    grey: npt.NDArray[np.float32]
    uniform: npt.NDArray[np.float32]
    white: float


class Change(NamedTuple):
    """A tubelet against the last encoded one.

    Attributes:
        patches: change of each patch without light and noise, (S,).
        novelty: of the tubelet, the same.
        lit: the same with light left in.
    """

    patches: PerPatch
    novelty: float
    lit: float


class PatchMemory:
    """Measures tubelets against the last one that `accept` was told is encoded.

    Raises:
        ValueError: from `measure`, a feature is NaN or infinite.
    """

    def __init__(self, response: PatchResponse, top_fraction: float) -> None:
        self._response, self._top_share = response, top_fraction
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._reference: Features | None = None
        self._noise: PerPatch | None = None

    def measure(self, features: Features) -> Change | None:
        """Compare with the last encoded tubelet; None if there is none. Changes nothing that is measured later."""
        if self._reference is None:
            return None
        difference = np.subtract(features, self._reference, out=self._scratch)
        with np.errstate(invalid="ignore", over="ignore"):  # told below, once
            evidence = light_evidence(difference, self._centred, self._response.uniform, self._gram)
        if not np.isfinite(evidence.energy.sum()):
            raise ValueError("novelty is not finite: the tubelet's pixels or the patch weights hold NaN or infinity")
        unlit = remove_light(evidence, rows=int(len(features) ** 0.5))
        noise = self._noise if self._noise is not None else np.zeros_like(self._scale)
        mean = self._ones @ difference  # (D,)
        patches = relative_change(unlit.energy, noise, self._scale)
        common = common_change(mean, self._centred, self._response.uniform, unlit.light)
        lit = relative_change(evidence.energy, noise, self._scale)
        return Change(patches, self._combine(patches, common), self._combine(lit, float(np.linalg.norm(mean))))

    def _combine(self, patches: PerPatch, common: float) -> float:
        return combine(top_mean(patches, self._top_share), common / float(self._scale.mean()))

    def accept(self, features: Features, encoded: bool) -> None:
        """This tubelet has got its embedding: learn its noise, and measure the next ones against it if encoded.

        Raises:
            ValueError: the first tubelet is not encoded.
        """
        if self._reference is None:
            if not encoded:
                raise ValueError("no embedding to reuse yet: compute all of the first tubelet")
            self._reference, self._centred, self._skipped, self._scratch = np.empty((4, *features.shape), np.float32)
            self._ones = np.full(len(features), 1 / len(features), np.float32)
        else:
            self._learn_noise(features)
        self._previous = self._reference if encoded else self._skipped
        np.copyto(self._previous, features)
        if encoded:
            np.subtract(features, self._response.grey, out=self._centred)
            self._gram = light_gram(self._centred, self._response.uniform)
            self._scale = patch_scale(self._gram[:, 0, 0], self._response.white)

    def _learn_noise(self, features: Features) -> None:
        difference = np.subtract(features, self._previous, out=self._scratch)
        energy: PerPatch = np.einsum("sd,sd->s", difference, difference)
        if self._noise is None:
            self._noise = first_noise(energy, self._scale)
        else:
            self._noise = track_noise(self._noise, energy, self._scale)
