"""Columns of a comparison, each a way to turn a clip into one vector per tubelet: the encoder, and its controls.

A control says how much of a figure needs no trained encoder: the picture itself, averaged to 16 x 16 pixels, and the
same architecture with random weights.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from saccade_ros.backends import Backend
from saccade_ros.backends.manifest import read_manifest
from saccade_ros.config import Config
from saccade_ros.measure.progress import Progress
from saccade_ros.recordings.clip import Clip, read_clip
from saccade_ros.studies.streamed import Vectors, stream
from saccade_ros.train.locked_views import resize
from saccade_ros.train.teachers import Teacher

PIXELS, UNTRAINED, TEACHER, ENCODER = "pixels 16x16", "untrained", "teacher", "encoder"
SIDE = 16  # of the pictures that PIXELS compares

Embed = Callable[[Clip], Vectors]  # of T tubelets, (T, dim)


@dataclass(frozen=True, eq=False)
class EmbeddedClip:
    """Vectors of a clip's T tubelets.

    Attributes:
        name: short, for tables.
        stamps_s: of the tubelets, (T,).
        vectors: by column, (T, dim) each.
        jittered: likewise, of the clip in other light and with noise; empty if that is not measured.
    """

    name: str
    stamps_s: npt.NDArray[np.float64]
    vectors: Mapping[str, Vectors]
    jittered: Mapping[str, Vectors]


def make_columns(
    config: Config, backend: Backend, controls: bool = True, teacher: Teacher | None = None
) -> dict[str, Embed]:
    """Make the columns of a table: controls and teacher, where they are asked for, and the loaded encoder."""
    columns: dict[str, Embed] = {}
    if controls:
        columns |= {PIXELS: pixel_vectors, UNTRAINED: encoder_vectors(untrained_backend(config, backend))}
    if teacher is not None:
        columns[TEACHER] = teacher_vectors(teacher)
    return {**columns, ENCODER: encoder_vectors(backend)}


def pixel_vectors(clip: Clip) -> Vectors:
    """Average both pictures of each tubelet to 16 x 16 RGB pixels: (T, 768)."""
    means = clip.pictures.mean(axis=1, dtype=np.float32)  # (T, size, size, 3)
    small = [cv2.resize(mean, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for mean in means]
    return np.stack(small).reshape(len(clip), -1).astype(np.float32)  # (T, 16 * 16 * 3)


def teacher_vectors(teacher: Teacher) -> Embed:
    """Average a teacher's features of each tubelet, alone, over its grid."""

    def embed(clip: Clip) -> Vectors:
        views = ([[resize(p, teacher.side) for p in pair]] for pair in clip.pictures)  # (1, 2, side, side, 3) each
        return np.stack([teacher.dense(np.stack([view])).mean(axis=(0, 1, 2, 3)) for view in views])  # (T, C)

    return embed


def encoder_vectors(backend: Backend) -> Embed:
    """Stream the clip from an empty cache, without gate, as the node does."""
    return lambda clip: stream(backend, clip.pixels).vectors


def untrained_backend(config: Config, backend: Backend) -> Backend:
    """Make an encoder of the sizes of a loaded one with random weights, in torch and fp32.

    Its seed is the one after encoder.seed, so that it is another one if the loaded weights are random themselves.
    """
    from saccade_ros.backends.torch_backend import TorchBackend  # only here: the other columns need no torch
    from saccade_ros.encoder.weights import load_untrained

    encoder = config.encoder
    spec = backend.spec if isinstance(backend, TorchBackend) else read_manifest(encoder.model).spec
    pooling = "window" if encoder.pooling == "probe" else encoder.pooling  # random weights have no probe
    loaded = load_untrained(spec, encoder.window, encoder.recompute, encoder.seed + 1, encoder.merge)
    in_torch = replace(config.backend, name="torch", precision="auto")
    return TorchBackend(replace(encoder, pooling=pooling), in_torch, loaded)


class ClipEmbedder:
    """Reader of clips that turns each into vectors, column by column, and reports how far it is.

    Args:
        size: of the encoder's input, in pixels.
        at_most: tubelets to take of a clip's start; 0 takes all.
        count: clips that there will be.
    """

    def __init__(
        self, config: Config, size: int, columns: Mapping[str, Embed], at_most: int, progress: Progress, count: int
    ) -> None:
        self.columns = columns
        self._read = partial(read_clip, config=config, input_size=size, at_most=at_most)
        self._progress, self._done, self._count = progress, 0, count

    def __call__(self, path: Path, name: str = "", jitter: Callable[[Clip], Clip] | None = None) -> EmbeddedClip:
        """Embed a clip, by this name or its file's, and once more as `jitter` changes it, if that is given.

        Raises:
            SourceError: the clip cannot be read.
        """
        name = name or path.name
        self._progress(f"embedding {name}", self._done / self._count)
        clip = self._read(path)
        vectors = {column: embed(clip) for column, embed in self.columns.items()}
        changed = jitter(clip) if jitter else None
        jittered = {column: embed(changed) for column, embed in self.columns.items()} if changed else {}
        self._done += 1
        return EmbeddedClip(name, clip.stamps_ns / 1e9, vectors, jittered)


def mean_vectors(clips: Sequence[EmbeddedClip], column: str) -> Vectors:
    """Average each clip's embeddings over its tubelets: (N, dim)."""
    return np.stack([clip.vectors[column].mean(axis=0) for clip in clips])


def evenly(count: int, at_most: int) -> npt.NDArray[np.int64]:
    """Choose at most this many of `count` indices, evenly spread, ascending."""
    return np.unique(np.linspace(0, count - 1, min(count, at_most)).round().astype(np.int64))
