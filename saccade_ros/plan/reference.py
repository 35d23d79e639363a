"""Reference of one stream: each patch as it was when it was computed last, which new ones are measured against.

Everything lies in memory allocated once, so that measuring a tubelet is four passes over its patches.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from saccade_ros.frames import Features, PerPatch
from saccade_ros.plan.change import combine, common_change, patch_scale, relative_change, top_mean
from saccade_ros.plan.illumination import compensate, illumination_gram, normal_equations
from saccade_ros.plan.noise import first_noise, track_noise


class PatchResponse(NamedTuple):
    """Response of the patch embedding to known pictures; it is linear, so they tell how illumination changes it.

    Attributes:
        grey: response to a picture of zeros in normalised pixels, the bias: (D,).
        uniform: to red, green and blue of one, minus grey: (3, D).
        white: norm of the response to white noise of unit variance.
    """

    grey: npt.NDArray[np.float32]
    uniform: npt.NDArray[np.float32]
    white: float


class Change(NamedTuple):
    """Change of a tubelet against its reference, beyond its noise.

    Attributes:
        patches: of each patch, compensated for illumination, (S,).
        novelty: of the tubelet, the same.
        uncompensated: novelty with the change of illumination left in.
    """

    patches: PerPatch
    novelty: float
    uncompensated: float


class PatchReference:
    """Patches of one stream as last computed, with the patches before the new ones and the estimate of their noise."""

    def __init__(self, response: PatchResponse, top_fraction: float) -> None:
        self._response, self._top_fraction = response, top_fraction
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._reference: Features | None = None
        self._noise: PerPatch | None = None

    def measure(self, patches: Features) -> Change | None:
        """Compare with the patches as last computed; None if there are none. Changes nothing that is remembered.

        Raises:
            ValueError: the patches hold NaN or infinity.
        """
        if self._reference is None:
            return None
        uniform = self._response.uniform
        difference = np.subtract(patches, self._reference, out=self._scratch)
        with np.errstate(invalid="ignore", over="ignore"):  # reported below, once
            equations = normal_equations(difference, self._centred, uniform, self._gram)
        if not np.isfinite(equations.energy.sum()):
            raise ValueError("novelty is not finite: the tubelet's pixels or the patch weights hold NaN or infinity")
        compensated = compensate(equations, rows=int(len(patches) ** 0.5))
        noise = self._noise if self._noise is not None else np.zeros_like(self._scale)
        mean = self._mean_weights @ difference  # (D,)
        change = relative_change(compensated.energy, noise, self._scale)
        common = common_change(mean, self._centred, uniform, compensated.illumination)
        uncompensated = relative_change(equations.energy, noise, self._scale)
        return Change(change, self._novelty(change, common), self._novelty(uncompensated, float(np.linalg.norm(mean))))

    def _novelty(self, change: PerPatch, common: float) -> float:
        return combine(top_mean(change, self._top_fraction), common / float(self._scale.mean()))

    def commit(self, patches: Features, token_idx: npt.NDArray[np.int64]) -> None:
        """Learn the noise of these patches, and measure the next ones against those that were computed, (M,).

        Raises:
            ValueError: the first tubelet was not computed whole.
        """
        if self._reference is None:
            if len(token_idx) < len(patches):
                raise ValueError("no embedding to reuse yet: compute all of the first tubelet")
            count = 1 + len(self._response.uniform)
            self._reference, self._centred, self._previous, self._scratch = np.empty((4, *patches.shape), np.float32)
            self._gram = np.empty((len(patches), count, count), np.float32)
            self._mean_weights = np.full(len(patches), 1 / len(patches), np.float32)
        else:
            self._learn_noise(patches)
        np.copyto(self._previous, patches)
        if len(token_idx):
            rows = slice(None) if len(token_idx) == len(patches) else token_idx
            self._reference[rows] = patches[rows]
            self._centred[rows] = patches[rows] - self._response.grey
            self._gram[rows] = illumination_gram(self._centred[rows], self._response.uniform)
            self._scale = patch_scale(self._gram[:, 0, 0], self._response.white)

    def _learn_noise(self, patches: Features) -> None:
        difference = np.subtract(patches, self._previous, out=self._scratch)
        energy: PerPatch = np.einsum("sd,sd->s", difference, difference)
        if self._noise is None:
            self._noise = first_noise(energy, self._scale)
        else:
            self._noise = track_noise(self._noise, energy, self._scale)
