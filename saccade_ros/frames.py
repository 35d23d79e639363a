"""Values that flow through the pipeline: Frame -> Tubelet -> Observation -> TokenPlan -> EmbeddingResult."""

import math
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]  # (height, width, 3), RGB
Pixels = npt.NDArray[np.float32]  # (2, 3, size, size), normalised; one frame of it (3, size, size)
Vector = npt.NDArray[np.float32]  # (dim,)
Features = npt.NDArray[np.float32]  # (S, D) patch embeddings of one tubelet
PerPatch = npt.NDArray[np.float32]  # (S,) one number for each of its patches
Figures = dict[str, float | int | str]  # what a part of a stream reports of itself, by name

# RGB, of ImageNet's training pictures: IMAGENET_DEFAULT_MEAN and _STD in transformers.image_utils. Pixels are
# normalised by them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Frame:
    """One image of a stream, decoded or not.

    Attributes:
        image: RGB uint8 array (height, width, 3), or an undecoded message with the attributes of a sensor_msgs Image or
            CompressedImage.
        stamp_ns: time of exposure in nanoseconds; only differences matter.
        frame_id: the camera's coordinate frame; a change starts the stream afresh.
        received_s: time of arrival on the monotonic clock, in seconds; now, if not given.
    """

    image: Any
    stamp_ns: int
    frame_id: str = ""
    received_s: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Tubelet:
    """Two consecutive sampled frames: V-JEPA 2's unit of time.

    Attributes:
        epoch: how often the stream had been reset before; a new epoch means an empty cache.
        index: tubelets formed in this epoch before this one.
        picture_size: (height, width) of both pictures.
    """

    older: Frame
    newer: Frame
    epoch: int
    index: int
    picture_size: tuple[int, int]

    @property
    def stamp_ns(self) -> int:
        """Stamp of the newer frame, in nanoseconds."""
        return self.newer.stamp_ns

    @property
    def frame_id(self) -> str:
        """Coordinate frame of the newer frame."""
        return self.newer.frame_id


class Decoded(NamedTuple):
    """A tubelet whose pictures are decoded, ready for the encoder.

    Attributes:
        pixels: the encoder's input.
        picture_size: (height, width) of the newer picture.
        queue_ms: from the newer frame received to the tubelet taken for decoding.
        decode_ms: that decoding and preprocessing took.
    """

    tubelet: Tubelet
    pixels: Pixels
    picture_size: tuple[int, int]
    queue_ms: float
    decode_ms: float


@dataclass(frozen=True, slots=True, eq=False)
class TokenPlan:
    """Tokens of one tubelet that the encoder is to compute: M of S.

    M = 0 reuses the last embedding, M = S computes everything.

    Attributes:
        token_idx: int64 (M,), ascending.
        reason: why they are computed; empty if none is.

    Raises:
        ValueError: token_idx is not as stated.
    """

    token_idx: npt.NDArray[np.int64]
    reason: str

    def __post_init__(self) -> None:
        idx = self.token_idx
        if idx.dtype != np.int64 or idx.ndim != 1 or (idx[:1] < 0).any() or (idx[1:] <= idx[:-1]).any():
            raise ValueError(
                f"token_idx is {idx.dtype} {idx.shape} {idx}: give int64 (M,) from 0 on, strictly ascending"
            )

    @property
    def size(self) -> int:
        """Number of tokens to compute, M."""
        return len(self.token_idx)

    @classmethod
    def dense(cls, tokens: int, reason: str) -> "TokenPlan":
        """Plan all of a tubelet's tokens, M = S = `tokens`."""
        return cls(np.arange(tokens, dtype=np.int64), reason)

    @classmethod
    def reuse(cls) -> "TokenPlan":
        """Plan none, M = 0: the last embedding stands for this tubelet."""
        return cls(np.empty(0, np.int64), "")


class Observation(NamedTuple):
    """A tubelet as the stages of the plan see it.

    Attributes:
        features: patch embeddings, (S, D).
        stamp_ns: of its newer frame, in nanoseconds.
        pixels: what they are embedded from, (2, 3, size, size).
    """

    features: Features
    stamp_ns: int
    pixels: Pixels


class View(NamedTuple):
    """The part of a camera's picture that the encoder sees, in pixels of that picture."""

    top: float
    left: float
    height: float
    width: float


@dataclass(frozen=True, slots=True)
class EmbeddingResult:
    """Everything the pipeline says about one tubelet: the Embedding message without ROS, and the gate's measurements.

    Attributes:
        vector: float32 (dim,). The fresh embedding, or the last one again if no token was computed.
        plan: the tokens that were computed, and why.
        tokens: how many the tubelet has (S), in a square grid.
        tokens_computed: how many were computed for it, 0 when reused: M of the plan; S more where all followed, because
            a sparse step could not stand (plan/context.py).
        novelty: what gate.policy measures, the predicted loss of reuse by default, 0 = identical; NaN where none could
            be measured (first tubelet of an epoch, or gate off).
        novelty_threshold: the tau it was compared with; NaN with the gate off.
        onset: True if an event begins with this tubelet: some patches stand out by gate.event_change after calm.
        patch_novelty: relative change of each patch since it was computed last, by rows from the top left,
            (grid, grid); None where novelty is NaN.
        view: where in the newer picture these patches lie.
        stamp_ns, frame_id: of the tubelet's newer frame.
        encoded_stamp_ns: stamp of the tubelet that the vector was computed from.
        reuse_count: how many times in a row the vector has been reused; 0 when encoded.
        stream_epoch, tubelet_index: of the tubelet.
        window_fill: tubelets in the cache that the embedding was computed from, 1..window; as it was if it is reused.
        queue_ms: newer frame received until encoding began. All durations are on the monotonic clock.
        decode_ms: both pictures decoded, resized and normalised.
        gate_ms: patch embedding, which the encoder then uses, and planning.
        encode_ms: the cached step, or that of all cameras that share one; 0 when not encoded.
        label, score: the vector's likeliest class and its probability; empty and NaN without a classifier.
    """

    vector: Vector
    plan: TokenPlan
    tokens: int
    tokens_computed: int
    novelty: float
    novelty_threshold: float
    onset: bool
    patch_novelty: npt.NDArray[np.float32] | None
    view: View
    stamp_ns: int
    frame_id: str
    encoded_stamp_ns: int
    reuse_count: int
    stream_epoch: int
    tubelet_index: int
    window_fill: int
    queue_ms: float
    decode_ms: float
    gate_ms: float
    encode_ms: float
    label: str
    score: float

    @property
    def encoded(self) -> bool:
        """True if the encoder ran for this tubelet."""
        return self.plan.size > 0

    @property
    def reason(self) -> str:
        """Reason of the plan."""
        return self.plan.reason

    @property
    def computed_mask(self) -> npt.NDArray[np.bool_]:
        """True for each patch that was computed, by rows from the top left, (grid, grid)."""
        mask = np.zeros(self.tokens, bool)
        mask[self.plan.token_idx] = True
        return mask.reshape(math.isqrt(self.tokens), -1)  # (grid, grid)
