"""How wrong was it to reuse an embedding? Fidelity of reused embeddings to fresh ones, and how old they got.

Fidelity is the cosine of the reused and the fresh embedding after the mean embedding has been taken off: all
embeddings of a model have much in common, so a plain cosine looks good whatever happens. The mean is the one of the
calibration's recordings, or the running mean of the stream where there is none. In a scene in which nothing ever
happens the running mean leaves only noise to compare; a calibrated one does not.
"""

import base64
import binascii
from collections import deque

import numpy as np
import numpy.typing as npt

from saccade_ros.config import ConfigError
from saccade_ros.frames import Figures, Vector

RECENT = 256  # shadow_evaluations and reuses that the figures are taken over
LEAST_FRESH = 8  # fresh embeddings from which on their running mean is one
_GOLDEN = 0.6180339887498949


def centred_cosine(reused: Vector, fresh: Vector, centre: Vector) -> npt.NDArray[np.float64]:
    """Cosine over the last axis after `centre` is taken off both: (..., D) -> (...). Equal vectors give 1."""
    a, b = reused.astype(np.float64) - centre, fresh.astype(np.float64) - centre
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    cosine = (a * b).sum(axis=-1) / np.where(norms > 0, norms, 1)
    same = (a == b).all(axis=-1)
    result: npt.NDArray[np.float64] = np.where(same, 1.0, cosine)
    return result


def is_shadowed(skipped: int, rate: float) -> bool:
    """Is the n-th skipped tubelet one to audit? Evenly spread but in step with nothing, at most `rate` of them + 1."""
    return (skipped * _GOLDEN) % 1.0 < rate


def encode_centre(centre: Vector) -> str:
    """A mean embedding as text for a parameter: base64 of little-endian float16."""
    return base64.b64encode(np.asarray(centre, "<f2").tobytes()).decode("ascii")


def decode_centre(text: str, dim: int) -> Vector:
    """The inverse.

    Raises:
        ConfigError: the text is damaged, or of an encoder of another width.
    """
    try:
        centre = np.frombuffer(base64.b64decode(text, validate=True), "<f2").astype(np.float32)
    except (binascii.Error, ValueError) as broken:
        raise ConfigError(
            f"gate.centre is damaged ({broken}): run `saccade calibrate` again, or leave it out"
        ) from broken
    if centre.shape != (dim,) or not np.isfinite(centre).all():
        raise ConfigError(
            f"gate.centre holds {len(centre)} values, the encoder's embeddings {dim}: "
            "run `saccade calibrate` again, or leave it out"
        )
    return centre


class FidelityMonitor:
    """Running figures of one stream. Survives resets: it judges the gate, not the scene.

    Args:
        centre: to take off the embeddings, (D,); None for their running mean.
    """

    def __init__(self, centre: Vector | None) -> None:
        self._centre = centre
        self._sum: npt.NDArray[np.float64] | None = None
        self._fresh = 0
        self._pairs: deque[tuple[Vector, Vector]] = deque(maxlen=RECENT)
        self._ages_s: deque[float] = deque(maxlen=RECENT)
        self.shadow_evaluations = 0

    def record_fresh(self, vector: Vector) -> None:
        """An embedding was computed."""
        self._sum = vector.astype(np.float64) if self._sum is None else self._sum + vector
        self._fresh += 1

    def record_age(self, age_s: float) -> None:
        """A tubelet was given an embedding this old, in header time; 0 if fresh."""
        self._ages_s.append(age_s)

    def record_shadow(self, reused: Vector, fresh: Vector) -> None:
        """A skipped tubelet was encoded after all."""
        self.shadow_evaluations += 1
        self.record_fresh(fresh)
        self._pairs.append((reused, fresh))

    def state(self) -> Figures:
        """For diagnostics and the report, from any thread. Fidelity only where there is enough to tell."""
        pairs, ages_s = tuple(self._pairs), tuple(self._ages_s)  # snapshots: the encoding thread appends meanwhile
        state: Figures = {"shadow_evaluations": self.shadow_evaluations}
        if ages_s:
            state |= {"staleness_s_mean": float(np.mean(ages_s)), "staleness_s_max": max(ages_s)}
        centre = self._centre
        if centre is None and self._sum is not None and self._fresh >= LEAST_FRESH:
            centre = (self._sum / self._fresh).astype(np.float32)
        if centre is None or not pairs:
            return state
        reused, fresh = (np.stack(side) for side in zip(*pairs, strict=True))
        cosines = centred_cosine(reused, fresh, centre)
        return state | {
            "fidelity_mean": float(cosines.mean()),
            "fidelity_p5": float(np.percentile(cosines, 5)),
            "fidelity_worst": float(cosines.min()),
            "fidelity_centre": "running mean" if self._centre is None else "calibrated",
        }
