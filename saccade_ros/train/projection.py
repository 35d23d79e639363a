"""Projections of a teacher's features to fewer channels: none, principal components, or random directions.

All keep the geometry of cosines: no channel is scaled by itself. One common scale makes a pooled value's mean square 1.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from saccade_ros.storage import whole_path
from saccade_ros.train.teachers import Features, TeacherError

KINDS = ("pca", "random", "none")


@dataclass(frozen=True)
class Projection:
    """Affine map of features: (x - mean) @ matrix.

    Attributes:
        mean: (C,).
        matrix: (C, P).
    """

    mean: npt.NDArray[np.float32]
    matrix: npt.NDArray[np.float32]

    def __call__(self, features: Features) -> Features:
        """(..., C) -> (..., P)."""
        return np.asarray((features - self.mean) @ self.matrix, dtype=np.float32)

    def save(self, file: Path) -> None:
        """Write both tensors, whole or not at all."""
        with whole_path(file) as path:
            save_file({"mean": self.mean, "matrix": self.matrix}, path)

    @classmethod
    def load(cls, file: Path) -> "Projection":
        """Read what `save` wrote.

        Raises:
            TeacherError: it cannot be read.
        """
        try:
            tensors = load_file(file)
            return cls(tensors["mean"], tensors["matrix"])
        except (OSError, SafetensorError, KeyError) as broken:
            raise TeacherError(f"{file} cannot be read ({broken}): start the cache again in another folder") from broken


def check_fit(kind: str, features: int, channels: int, width: int) -> None:
    """Check that a projection can be fitted to so many features.

    Raises:
        TeacherError: there are fewer channels, or too few features to find the components of.
    """
    if kind != "none" and width > channels:
        raise TeacherError(f"--width is {width}, the teacher has {channels} channels: give at most as many")
    if kind == "pca" and features <= width:
        raise TeacherError(
            f"{features} features are too few for {width} components: give more clips or views, or a lower --width"
        )


def fit_projection(kind: str, pooled: Features, width: int, seed: int) -> Projection:
    """Fit a projection to pooled features (N, C).

    Args:
        kind: "pca" keeps the directions of largest variance (Pearson 1901), "random" draws orthonormal ones, "none"
            keeps every channel, centred and scaled.
        width: channels to keep (P); "none" ignores it.

    Raises:
        TeacherError: see check_fit.
    """
    check_fit(kind, len(pooled), pooled.shape[1], width)
    mean = pooled.mean(axis=0)
    directions = _directions(kind, pooled - mean, width, seed)
    scale = 1 / max(float(np.sqrt(np.square((pooled - mean) @ directions).mean())), 1e-12)
    return Projection(mean.astype(np.float32), (directions * scale).astype(np.float32))


def _directions(kind: str, centred: Features, width: int, seed: int) -> npt.NDArray[np.float64]:
    """Orthonormal columns, (C, P)."""
    channels = centred.shape[1]
    if kind == "none":
        return np.eye(channels)
    if kind == "random":
        return np.linalg.qr(np.random.default_rng(seed).normal(size=(channels, width)))[0]
    vectors: npt.NDArray[np.float64]
    _, vectors = np.linalg.eigh(np.cov(centred.astype(np.float64), rowvar=False))  # in ascending order
    components: npt.NDArray[np.float64] = vectors[:, ::-1][:, :width]
    return components * np.where(components[np.abs(components).argmax(axis=0), np.arange(width)] < 0, -1.0, 1.0)
