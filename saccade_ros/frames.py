"""The values that flow through the engine: Frame -> Tubelet -> EmbeddingResult."""

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]  # (height, width, 3), RGB
Pixels = npt.NDArray[np.float32]  # (2, 3, size, size), normalised; one frame of it (3, size, size)
Vector = npt.NDArray[np.float32]  # (dim,)

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded picture of a stream.

    Attributes:
        picture: RGB, uint8, (height, width, 3).
        stamp_ns: when it was taken, in nanoseconds; only differences matter.
        frame_id: the camera's coordinate frame; a change starts the stream afresh.
    """

    picture: Picture
    stamp_ns: int
    frame_id: str = ""


@dataclass(frozen=True, slots=True)
class Tubelet(Generic[Item]):
    """Two consecutive sampled frames: V-JEPA 2's unit of time.

    Attributes:
        older, newer: the two items, decoded frames in the engine, undecoded messages in the node.
        stamp_ns, frame_id: the newer one's.
        epoch: how often the stream had been reset before; a new epoch means an empty cache.
        index: tubelets formed in this epoch before this one.
    """

    older: Item
    newer: Item
    stamp_ns: int
    frame_id: str
    epoch: int
    index: int


class View(NamedTuple):
    """The part of a camera's picture that the encoder sees, in pixels of that picture."""

    top: float
    left: float
    height: float
    width: float


@dataclass(frozen=True, slots=True)
class EmbeddingResult:
    """What the engine says about one tubelet. The Embedding message without ROS, and what the gate saw.

    Attributes:
        vector: float32 (dim,). The fresh embedding, or the last one again if the gate stayed shut.
        encoded: True if the encoder ran for this tubelet.
        novelty: change since the last encoded tubelet, 0 = identical; NaN where none could be measured
            (first tubelet of an epoch, or gate off).
        novelty_threshold: the tau it was compared with; NaN with the gate off.
        stamp_ns, frame_id: of the tubelet's newer frame.
        encoded_stamp_ns: stamp of the tubelet that the vector was computed from.
        reuse_count: how many times in a row the vector has been reused; 0 when encoded.
        epoch, index: of the tubelet.
        window_fill: tubelets in the cache, 1..window.
        decode_ms: both pictures decoded, resized and normalised. All durations are on the monotonic clock.
        gate_ms: patch embedding, which the encoder then uses, and novelty.
        encode_ms: the cached step; 0 when not encoded.
        reason: why it was encoded: first, novelty, drift, stale, open (gate off); empty if it was not.
        onset: True if an event begins with this tubelet: novelty reached gate.tau after calm.
        patch_novelty: of each patch, by rows from the top left, (grid, grid); None where novelty is NaN.
        view: where in the newer picture these patches lie.
        label, score: the vector's likeliest class and its probability; empty and NaN without a classifier.
    """

    vector: Vector
    encoded: bool
    novelty: float
    novelty_threshold: float
    stamp_ns: int
    frame_id: str
    encoded_stamp_ns: int
    reuse_count: int
    epoch: int
    index: int
    window_fill: int
    decode_ms: float
    gate_ms: float
    encode_ms: float
    reason: str
    onset: bool
    patch_novelty: npt.NDArray[np.float32] | None
    view: View
    label: str = ""
    score: float = float("nan")
