"""Change of each patch since its token was computed last, beyond the camera's noise."""

import numpy as np
import numpy.typing as npt

from saccade_ros.frames import Features, Observation, PerPatch
from saccade_ros.plan.change import PatchResponse, patch_scale, relative_change
from saccade_ros.plan.noise import PatchNoise, squared_distance

COMPRESSION = 0.025  # relative change that blocks and key frames of a video make in a still picture; none counts


class PatchChange:
    """Patches of one stream as last computed, and their noise.

    One for all stages of the stream's plan. Each of them measures and commits every tubelet, as if it were alone; what
    another has done with that tubelet before is not done again.

    Attributes:
        noise: of each patch, (S,); see noise.py.
        scale: length that each patch's change is relative to, (S,).
    """

    def __init__(self, response: PatchResponse) -> None:
        self._response = response
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._reference: Features | None = None
        self._measured: tuple[Observation, PerPatch] | None = None
        self._committed: Observation | None = None

    @property
    def noise(self) -> PerPatch:
        """Squared length of each patch's change by noise, (S,)."""
        return self._noise.energy

    def measure(self, seen: Observation) -> PerPatch | None:
        """Change of each patch, (S,), relative to its strength; None with nothing to compare with.

        Raises:
            ValueError: the patches hold NaN or infinity.
        """
        if self._reference is None:
            return None
        if self._measured is None or self._measured[0] is not seen:
            self._measured = seen, self._change(seen.features, self._reference, self.scale)
        return self._measured[1]

    def measure_step(self, features: Features) -> PerPatch:
        """Change of each patch since the previous tubelet, computed or not, (S,); after a first one."""
        previous = self._noise.previous
        return self._change(features, previous, self._scale_of(previous))

    def _change(self, features: Features, reference: Features, scale: PerPatch) -> PerPatch:
        with np.errstate(invalid="ignore", over="ignore"):  # reported below, once
            energy = squared_distance(features, reference)
        if not np.isfinite(energy.sum()):
            raise ValueError("change is not finite: the tubelet's pixels or the patch weights hold NaN or infinity")
        change: PerPatch = np.maximum(relative_change(energy, self.noise, scale) - COMPRESSION, 0)
        return change

    def commit(self, seen: Observation, token_idx: npt.NDArray[np.int64]) -> None:
        """Learn the noise of these patches, and measure the next ones against those that were computed, (M,).

        Raises:
            ValueError: the first tubelet was not computed whole.
        """
        if self._committed is seen:
            return
        features = seen.features
        if self._reference is None:
            if len(token_idx) < len(features):
                raise ValueError("no embedding to reuse yet: compute all of the first tubelet")
            self._reference, self._noise = features.copy(), PatchNoise(features)
        self._reference[token_idx] = features[token_idx]
        self.scale = self._scale_of(self._reference)
        self._noise.learn(features, self.scale)
        self._measured, self._committed = None, seen

    def _scale_of(self, features: Features) -> PerPatch:
        return patch_scale(squared_distance(features, self._response.grey), self._response.white)
