"""How near the cached stream comes to the bidirectional clip encoder, and at what price.

Reference: for each tubelet the clip encoder over the window that ends in it, which is the stream with recompute =
window. Measured once the window has filled. Vectors are centred first, by the reference's mean over the clip: most of
an embedding is the same for every picture, and a plain cosine would call anything faithful.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from saccade_ros.backends import Backend
from saccade_ros.config import EncoderConfig

Vectors = npt.NDArray[np.float32]  # (T, dim)
LoadBackend = Callable[[EncoderConfig], Backend]


@dataclass(frozen=True)
class Curve:
    """A family of settings, drawn as one line. `adapted`: with the causal adapter."""

    name: str
    settings: tuple[EncoderConfig, ...]


@dataclass(frozen=True)
class Streamed:
    """A clip's embeddings, and the price of one: median milliseconds of patch embedding and step, window full."""

    vectors: Vectors
    ms: float


def curves(encoder: EncoderConfig) -> tuple[Curve, ...]:
    """Settings to measure: each recompute of the window, smaller windows with recompute 1, and the adapter's."""
    plain = replace(encoder, adapter="")
    window, smaller = encoder.window, _halvings(encoder.window)
    found = [
        Curve("window W, r = 1..W", tuple(replace(plain, recompute=r) for r in range(1, window + 1))),
        Curve("smaller windows, r = 1", tuple(replace(plain, window=w, recompute=1) for w in smaller)),
        Curve("smaller windows, r = W", tuple(replace(plain, window=w, recompute=w) for w in smaller if w > 1)),
    ]
    if encoder.adapter:
        found.append(Curve("with the adapter, r = 1..W", tuple(replace(encoder, recompute=r) for r in _powers(window))))
    return tuple(found)


def _halvings(window: int) -> list[int]:
    sizes = []
    while (window := window // 2) >= 1:
        sizes.append(window)
    return sizes[::-1]


def _powers(window: int) -> list[int]:
    return [*_halvings(window), window]


def stream(backend: Backend, clip: npt.NDArray[np.float32]) -> Streamed:
    """Every tubelet of a clip (T, 2, 3, H, W) through a fresh stream."""
    state, vectors, times = backend.new_state(), [], []
    for pixels in clip:
        started = time.perf_counter()
        vectors.append(state.step(backend.embed(pixels).patches))
        times.append((time.perf_counter() - started) * 1e3)
    full = times[backend.info.window - 1 :] or times
    return Streamed(np.stack(vectors), statistics.median(full))


def centred_cosine(vectors: Vectors, reference: Vectors) -> npt.NDArray[np.float64]:
    """Cosine of each pair of rows, both less the reference's mean: (T, dim), (T, dim) -> (T,)."""
    middle = reference.mean(axis=0, dtype=np.float64)
    ours, theirs = vectors - middle, reference - middle
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines: npt.NDArray[np.float64] = (ours * theirs).sum(axis=1) / np.maximum(lengths, 1e-30)
    return cosines


def summarize(cosines: npt.NDArray[np.float64]) -> dict[str, float]:
    """Mean, 5th percentile and worst."""
    return {"mean": float(cosines.mean()), "p5": float(np.percentile(cosines, 5)), "worst": float(cosines.min())}


def measure_fidelity(
    encoder: EncoderConfig,
    clips: Sequence[npt.NDArray[np.float32]],
    load: LoadBackend,
    advance: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Every setting of every curve against the reference.

    Args:
        clips: pixels (T, 2, 3, H, W), each longer than the window.
        load: makes a backend.
        advance: called before each setting with its name.

    Returns:
        JSON-ready rows: curve, window, recompute, adapter, ms, and mean, p5 and worst over all clips and by clip.
    """
    reference_config = replace(encoder, adapter="", recompute=encoder.window)
    advance("the clip encoder")
    teacher = load(reference_config)
    full = slice(encoder.window - 1, None)
    references = [stream(teacher, clip) for clip in clips]
    rows = []
    for curve in curves(encoder):
        for setting in curve.settings:
            advance(f"{curve.name}: window {setting.window}, recompute {setting.recompute}")
            backend = load(setting)
            streamed = [stream(backend, clip) for clip in clips]
            cosines = [
                centred_cosine(ours.vectors[full], theirs.vectors[full])
                for ours, theirs in zip(streamed, references, strict=True)
            ]
            rows.append(
                {
                    "curve": curve.name,
                    "window": setting.window,
                    "recompute": setting.recompute,
                    "adapter": bool(setting.adapter),
                    "ms": statistics.median(s.ms for s in streamed),
                    **summarize(np.concatenate(cosines)),
                    "clips": [summarize(of_clip) for of_clip in cosines],
                }
            )
    return rows
