"""A recording encoded once, in full, from which every gate can be judged at every threshold.

Each tubelet is encoded as if there were no gate, and kept with its patch embeddings and a grey picture. A gate is
then replayed over the patches alone, which takes a millisecond a tubelet in place of an encoder's step.

What that leaves out: under a real gate the cache holds only the encoded tubelets, so its embeddings differ a little
from those of the full stream. Shadow evaluation of a running gate compares on the gated stream's own cache; `saccade
calibrate` ends with it, and states both.
"""

import logging
import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import IO

import cv2
import numpy as np
import numpy.typing as npt

from saccade_ros.backends import Backend
from saccade_ros.config import Config
from saccade_ros.frames import IMAGENET_MEAN, IMAGENET_STD, Figures, Frame, Observation, Pixels, TokenPlan
from saccade_ros.measure.progress import Progress, silent
from saccade_ros.pipeline import Pipeline
from saccade_ros.verdict import require_tubelets
from saccade_ros.vision.target import Square

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trace:
    """Patches, embeddings and pictures of T tubelets of one recording.

    Attributes:
        features: patch embeddings, (T, S, D), in a file that vanishes with this object.
        vectors: the embedding of each, fresh, from a cache that saw all tubelets, (T, dim).
        grey: newest picture of each as the encoder sees it, (T, size, size), uint8.
        stamps_ns: (T,).
        epochs: (T,); a new one has an empty cache.
        events: tubelets in which something new appears, where that is known.
    """

    name: str
    features: npt.NDArray[np.float32]
    vectors: npt.NDArray[np.float32]
    grey: npt.NDArray[np.uint8]
    stamps_ns: npt.NDArray[np.int64]
    epochs: npt.NDArray[np.int64]
    events: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.stamps_ns)

    def pixels(self, t: int) -> Pixels:
        """Grey picture of a tubelet, as both its frames, normalised: (2, 3, size, size)."""
        grey = self.grey[t].astype(np.float32) / 255  # (size, size)
        mean, std = (np.array(v, np.float32)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        frame = (grey - mean) / std  # (3, size, size)
        return np.stack([frame, frame])

    def part(self, start: int, stop: int, name: str) -> "Trace":
        """Cut out tubelets start..stop as a trace of its own."""
        cut = slice(start, stop)
        events = tuple(event - start for event in self.events if start <= event < stop)
        stamps_ns, epochs = self.stamps_ns[cut], self.epochs[cut]
        return Trace(name, self.features[cut], self.vectors[cut], self.grey[cut], stamps_ns, epochs, events)

    def warm(self, window: int) -> npt.NDArray[np.bool_]:
        """Mark tubelets whose cache is still filling, (T,): every gate encodes them and none is judged by them."""
        starts = np.flatnonzero(np.diff(self.epochs, prepend=-1))
        since = np.arange(len(self)) - starts[np.searchsorted(starts, np.arange(len(self)), "right") - 1]
        warm: npt.NDArray[np.bool_] = since <= window
        return warm


class _FeatureFile:
    """Stage that leaves the plan as it is, and writes every tubelet's patch embeddings to a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._shape: tuple[int, ...] = ()
        self._count = 0

    def propose(self, seen: Observation, plan: TokenPlan) -> TokenPlan:
        """Leave the plan as it is."""
        return plan

    def commit(self, seen: Observation, plan: TokenPlan) -> None:
        """Write the patches."""
        self._file.write(np.ascontiguousarray(seen.features, np.float32).data)
        self._shape, self._count = seen.features.shape, self._count + 1

    def reset(self) -> None:
        """Keep what is written: epochs follow each other."""

    def state(self) -> Figures:
        """Report nothing."""
        return {}

    def read(self) -> npt.NDArray[np.float32]:
        """Map the whole file, (T, S, D); it stays on the disk while the array lives."""
        self._file.flush()
        return np.memmap(self._file, np.float32, "r", shape=(self._count, *self._shape))


def record(
    name: str,
    frames: Iterable[Frame],
    config: Config,
    backend: Backend,
    events_ns: Iterable[int] = (),
    progress: Progress = silent,
    count: float = math.nan,
) -> Trace:
    """Encode every tubelet of a stream, sampled and paired as the node does it.

    Args:
        events_ns: stamps of the frames in which something new appears.
        progress: told after each tubelet.
        count: number of the frames, NaN where it is not known.

    Raises:
        EmptyResultError: there is no tubelet at all.
    """
    size, fit = backend.info.input_size, config.vision.fit
    rows: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], int, int]] = []
    with tempfile.TemporaryFile() as file:
        features = _FeatureFile(file)
        ungated = replace(config, gate=replace(config.gate, enabled=False), tokens=replace(config.tokens, select="all"))
        stream = Pipeline(ungated, backend).open_stream(name, stages=(features,))
        for tubelet, result in stream.run(frames):
            square = stream.intake.decode(tubelet.newer, Square(size, fit))
            grey = cv2.cvtColor(square, cv2.COLOR_RGB2GRAY).astype(np.uint8)  # (size, size)
            rows.append((result.vector, grey, tubelet.stamp_ns, tubelet.epoch))
            progress(f"encoding {name}", stream.ledger.received / count)
        verdict = require_tubelets(name, stream.name, stream.ledger.accounts(), len(rows))
        if verdict.level:
            _log.warning("%s: %s", name, verdict.sentence)
        features_of_all = features.read()
    vectors, greys, stamps_ns, epochs = (np.stack(column) for column in zip(*rows, strict=True))
    events = tuple(int(np.searchsorted(stamps_ns, event_ns)) for event_ns in events_ns if event_ns <= stamps_ns[-1])
    return Trace(name, features_of_all, vectors, greys, stamps_ns, epochs, events)


def common_centre(traces: Sequence[Trace], window: int) -> npt.NDArray[np.float32]:
    """Average the embeddings after the warm-up, each recording counting once: (dim,).

    Raises:
        ValueError: no recording is longer than the window.
    """
    means = [trace.vectors[~trace.warm(window)].mean(axis=0) for trace in traces if not trace.warm(window).all()]
    if not means:
        raise ValueError(f"no recording is longer than the window of {window} tubelets: give longer ones")
    centre: npt.NDArray[np.float32] = np.mean(means, axis=0, dtype=np.float32)
    return centre
