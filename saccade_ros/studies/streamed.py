"""Stream of a clip's tubelets without gate: the embeddings, and the time that one takes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saccade_ros.backends import Backend
from saccade_ros.measure.timing import interleave, spread

Vectors = npt.NDArray[np.float32]  # (T, dim)


@dataclass(frozen=True)
class Streamed:
    """Embeddings of a clip, and the median milliseconds of patch embedding and step on a full window."""

    vectors: Vectors
    ms: float


def stream(backend: Backend, clip: npt.NDArray[np.float32]) -> Streamed:
    """Encode every tubelet of a clip (T, 2, 3, H, W)."""
    state, pictures, vectors = backend.new_state(), iter(clip), list[Vectors]()

    def encode_next() -> None:
        """Encode the next tubelet."""
        vectors.append(state.step(backend.embed(next(pictures)).patches))

    times_ms = interleave({"tubelet": encode_next}, rounds=len(clip))["tubelet"]
    full = times_ms[backend.info.window - 1 :] or times_ms
    return Streamed(np.stack(vectors), spread(full).median)
