"""A trace drawn by hand, for tests of what gates choose."""

import numpy as np

from saccade_ros.studies.trace import Trace


def trace_of(values: list[float], events: tuple[int, ...] = (), epochs: list[int] | None = None) -> Trace:
    """One patch of one value, embeddings on a circle, pictures as bright as the value; a tubelet a second."""
    v = np.array(values, np.float32)
    return Trace(
        "by hand",
        v[:, None, None],
        np.stack([np.cos(v), np.sin(v)], axis=1),
        np.round(v * 100).astype(np.uint8)[:, None, None],
        np.arange(len(v)) * 10**9,
        np.array(epochs or [0] * len(v)),
        events,
    )
