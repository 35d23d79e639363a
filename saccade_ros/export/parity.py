"""How well and how fast an exported step does what torch does in fp32; measured, before it is accepted."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from saccade_ros.backends.base import EncoderState
from saccade_ros.encoder.model import StreamingEncoder
from saccade_ros.frames import Pixels

Floats = npt.NDArray[np.float32]


class MeasuredState(EncoderState, Protocol):
    """A stream that also tells the tokens of its last step: (r, S, D)."""

    def tokens(self) -> Floats: ...


@dataclass(frozen=True)
class Reference:
    """What torch computes in fp32 over a clip.

    Attributes:
        patches: of every tubelet, (S, D).
        tokens: of the newest tubelet after every step, (S, D).
    """

    name: str
    patches: list[Floats]
    tokens: list[Floats]

    @property
    def vectors(self) -> Floats:
        """Embeddings (T, D)."""
        return np.stack([tokens.mean(axis=0) for tokens in self.tokens])


def compute_reference(
    encoder: StreamingEncoder, name: str, clip: Sequence[Pixels], progress: Callable[[float], None]
) -> Reference:
    """Stream a clip through the torch encoder."""
    import torch

    ring, reference = encoder.new_ring(), Reference(name, [], [])
    for i, pixels in enumerate(clip):
        patches = encoder.embed(torch.from_numpy(pixels))
        reference.patches.append(patches.numpy())
        reference.tokens.append(encoder.step([patches], [ring])[0].tokens[-1].numpy())
        progress((i + 1) / len(clip))
    return reference


def compare(state: MeasuredState, reference: Reference, progress: Callable[[float], None]) -> dict[str, Any]:
    """Stream the reference's patches through `state`.

    Returns:
        Centred cosine of the embeddings (the clip's mean embedding subtracted from both: random or similar scenes make
        the plain cosine look falsely good) as mean, p5 and worst with its tubelet; the mean once each side is centred
        on itself, which is what counts among vectors of one encoder id; the tokens' largest error relative to
        their largest magnitude.
    """
    vectors, error = [], 0.0
    for i, (patches, expected) in enumerate(zip(reference.patches, reference.tokens, strict=True)):
        vectors.append(state.step(patches))
        error = max(error, float(np.abs(state.tokens()[-1] - expected).max() / np.abs(expected).max()))
        progress((i + 1) / len(reference.patches))
    cosine = centred_cosine(np.stack(vectors), reference.vectors)  # (T,)
    among = centred_cosine(_centred(np.stack(vectors)), _centred(reference.vectors))
    return {
        "clip": reference.name,
        "tubelets": len(cosine),
        "centred_cosine_mean": float(cosine.mean()),
        "centred_cosine_p5": float(np.percentile(cosine, 5)),
        "centred_cosine_worst": float(cosine.min()),
        "worst_tubelet": int(cosine.argmin()),
        "own_centre_cosine_mean": float(among.mean()),
        "max_relative_error": error,
    }


def centred_cosine(vectors: Floats, expected: Floats) -> Floats:
    """Cosine of each pair (T, D), the expected vectors' mean taken from both: (T,). 1 where both are the mean."""
    centre = expected.mean(axis=0)
    a, b = vectors - centre, expected - centre
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dot = (a * b).sum(axis=1)
    same = np.isclose(a, b, rtol=0, atol=1e-6 * max(float(np.abs(expected).max()), 1e-30)).all(axis=1)
    cosine: Floats = np.where(same, 1.0, dot / np.where(size > 0, size, 1.0)).astype(np.float32)
    return cosine


def _centred(vectors: Floats) -> Floats:
    centred: Floats = vectors - vectors.mean(axis=0)
    return centred


def race(steps: dict[str, Callable[[], None]], rounds: int, progress: Callable[[float], None]) -> dict[str, float]:
    """Median milliseconds of each, run in turn so that a change of the machine's speed hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(rounds):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            times[name].append((time.perf_counter() - started) * 1e3)
        progress((i + 1) / rounds)
    return {name: round(statistics.median(values), 3) for name, values in times.items()}
