"""Time until an event is forgotten: until it is no longer visible in the embedding after it has left the window.

Two streams see the same clip, but for the event: one begins with other pictures and cuts to the clip, the other sees
the clip throughout. Their difference after the cut is what is left of the event. It is 0 once the receptive field
lies behind the cut: depth x (window - 1) + 1 tubelets with recompute 1, the window alone with recompute = window.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from saccade_ros.backends import Backend
from saccade_ros.config import EncoderConfig
from saccade_ros.measure.progress import Progress
from saccade_ros.studies.streamed import Vectors, stream

LEVELS = (0.1, 0.01, 0.001)  # of the difference at the cut
MARGIN = 4  # tubelets past the receptive field, to see that nothing is left


def bounce(clip: npt.NDArray[np.float32], tubelets: int) -> npt.NDArray[np.float32]:
    """Make a clip as long as asked for by playing it to and fro: (T, ...) -> (tubelets, ...)."""
    there_and_back = np.concatenate((np.arange(len(clip)), np.arange(len(clip) - 2, 0, -1)))
    looped: npt.NDArray[np.float32] = clip[np.resize(there_and_back, tubelets)]
    return looped


def receptive_field(depth: int, window: int, recompute: int) -> int:
    """Count the tubelets, the newest included, that an embedding depends on.

    The first layer below the output reaches W-1 back. A tubelet that has left the block keeps what it last attended
    to, W-r before itself; each further layer adds that much.
    """
    return window + (depth - 1) * (window - recompute)


def measure_forgetting(
    encoder: EncoderConfig,
    clip: npt.NDArray[np.float32],
    event: npt.NDArray[np.float32],
    load: Callable[[EncoderConfig], Backend],
    progress: Progress,
) -> list[dict[str, Any]]:
    """Follow an event as long as the window, for recompute 1, half the window and the window.

    Args:
        clip, event: pixels (T, 2, 3, H, W) of what is seen after and before the cut.

    Returns:
        JSON-ready rows: window, recompute, receptive_field, trace (difference after 1, 2, .. tubelets, relative to
        how far the clip's own embeddings are apart; 0 from number receptive_field on) and forgotten_after (tubelets
        until the trace stays below each fraction of its first value).
    """
    window, rows = encoder.window, []
    recomputes = sorted({1, max(1, window // 2), window})
    for i, recompute in enumerate(recomputes):
        progress(f"time to forget: recompute {recompute}", i / len(recomputes))
        backend = load(replace(encoder, recompute=recompute))
        field = receptive_field(backend.info.depth, window, recompute)
        seen = bounce(clip, window + field + MARGIN)
        saw_event = np.concatenate((bounce(event, window), seen[window:]))
        with_event, without = (stream(backend, pictures).vectors[window:] for pictures in (saw_event, seen))
        trace = relative_difference(with_event, without)
        rows.append(
            {
                "window": window,
                "recompute": recompute,
                "adapter": bool(encoder.adapter),
                "receptive_field": field,
                "trace": [float(value) for value in trace],
                "forgotten_after": {str(level): forgotten_after(trace, level) for level in LEVELS},
            }
        )
    return rows


def relative_difference(vectors: Vectors, others: Vectors) -> npt.NDArray[np.float64]:
    """Measure the distance of each pair of rows, in units of the others' spread: (T, dim), (T, dim) -> (T,)."""
    spread = float(np.sqrt(((others - others.mean(axis=0)) ** 2).sum(axis=1).mean()))
    distances: npt.NDArray[np.float64] = np.linalg.norm(vectors - others, axis=1).astype(np.float64)
    return distances / max(spread, 1e-30)


def forgotten_after(trace: Sequence[float] | npt.NDArray[np.float64], level: float) -> int | None:
    """Count tubelets after the cut until the trace stays below `level` times its first value; None if it does not."""
    above = np.flatnonzero(np.asarray(trace) >= level * trace[0])
    last = int(above[-1]) + 1
    return last if last < len(trace) else None
