"""Parity of an exported step with torch in fp32, measured before it is accepted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from saccade_ros.backends.base import EncoderState
from saccade_ros.encoder.model import StreamingEncoder
from saccade_ros.frames import Pixels
from saccade_ros.measure.metrics import centred_cosine, summarize
from saccade_ros.measure.progress import Progress

Floats = npt.NDArray[np.float32]


class MeasuredState(EncoderState, Protocol):
    """A stream whose newest tokens can be read."""

    @property
    def tokens(self) -> Floats:
        """Tokens after the final norm, (r, S, D), newest last."""
        ...


@dataclass(frozen=True)
class Reference:
    """Patches and tokens of a clip as torch computes them in fp32.

    Attributes:
        patches: of every tubelet, (S, D).
        tokens: of the newest tubelet after every step, (S, D), fewer where they merge.
        means: of these, weighted by size, (D,): the embeddings.
    """

    name: str
    patches: list[Floats]
    tokens: list[Floats]
    means: list[Floats]

    @property
    def vectors(self) -> Floats:
        """Embeddings (T, D)."""
        return np.stack(self.means)


def compute_reference(encoder: StreamingEncoder, name: str, clip: Sequence[Pixels], progress: Progress) -> Reference:
    """Stream a clip through the torch encoder."""
    import torch

    ring, reference = encoder.new_ring(), Reference(name, [], [], [])
    for i, pixels in enumerate(clip):
        patches = encoder.embed(torch.from_numpy(pixels))
        reference.patches.append(patches.numpy())
        (output,) = encoder.step([patches], [ring])
        reference.tokens.append(output.tokens[-1].numpy())
        reference.means.append(output.newest.numpy())
        progress("torch fp32", (i + 1) / len(clip))
    return reference


def compare(state: MeasuredState, reference: Reference, progress: Progress) -> dict[str, Any]:
    """Stream the reference's patches through `state`.

    Returns:
        Centred cosine of the embeddings as mean, p5 and worst with its tubelet; the mean once each side is centred on
        itself, which is what counts among vectors of one encoder id; the tokens' largest error relative to their
        largest magnitude.
    """
    streamed, error = [], 0.0
    for i, (patches, expected) in enumerate(zip(reference.patches, reference.tokens, strict=True)):
        streamed.append(state.step(patches))
        error = max(error, float(np.abs(state.tokens[-1] - expected).max() / np.abs(expected).max()))
        progress("comparing", (i + 1) / len(reference.patches))
    vectors, expected_vectors = np.stack(streamed), reference.vectors  # (T, D)
    cosines = centred_cosine(vectors, expected_vectors)  # (T,)
    spread = summarize(cosines)
    own_centres = centred_cosine(vectors - vectors.mean(axis=0), expected_vectors - expected_vectors.mean(axis=0))
    return {
        "clip": reference.name,
        "tubelets": len(cosines),
        "centred_cosine_mean": spread.mean,
        "centred_cosine_p5": spread.p5,
        "centred_cosine_worst": spread.worst,
        "worst_tubelet": int(cosines.argmin()),
        "own_centre_cosine_mean": float(own_centres.mean()),
        "max_relative_error": error,
    }
