"""Backend protocol: the contract between a stream and the runtime of its encoder. NumPy in, NumPy out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from saccade_ros.backends.identity import identify
from saccade_ros.config import EncoderConfig
from saccade_ros.encoder.spec import ModelSpec
from saccade_ros.frames import Pixels, Vector
from saccade_ros.heads import Head

MOST_TOGETHER = 4  # streams in a step
MOST_JOINT_VALUES = 32768  # r*S*D of a step that is still mostly overhead, such as 64 tokens of width 512


class BackendError(RuntimeError):
    """Runtime or device that cannot be used here. The message says what to install or change."""


@dataclass(frozen=True)
class EncoderInfo:
    """Constants of a loaded encoder; most of the EncoderInfo message.

    Attributes:
        encoder_id: weights and every setting that changes vectors (identity.py); vectors compare under one id only.
        weights: where the weights came from, for people.
        weights_sha256: hex digest of the weights in fp32.
        weights_random: True if they were never trained.
        patch_scale: norm of a patch embedding's response to white noise of unit variance, for the gate.
        cache_bytes: memory of one stream's cache.
        depth: layers, which with the window make how far back an embedding sees.
        token_counts: numbers of tokens that a sparse step can compute, ascending, the last one all S; plans are widened
            to the next. Empty: any number.
        holds: True if the newest tubelet can stand for further ones (EncoderState.hold).
        choice: why this runtime and precision, where the settings leave it open, and what the runtime cannot do here.
        together: streams whose steps are cheaper computed as one than in turn (JointBackend); 1: none.
    """

    encoder_id: str
    model: str
    weights: str
    weights_sha256: str
    weights_random: bool
    backend: str
    device: str
    precision: str
    threads: int
    input_size: int
    tubelet_size: int
    window: int
    recompute: int
    dim: int
    patch_scale: float
    cache_bytes: int
    depth: int
    token_counts: tuple[int, ...] = ()
    holds: bool = False
    choice: str = ""
    together: int = 1

    @property
    def reach(self) -> int:
        """Tubelets that an embedding sees beyond the window, each layer the window of the one below: (L-1)(W-1)."""
        return (self.depth - 1) * (self.window - 1)

    @classmethod
    def of(
        cls,
        spec: ModelSpec,
        source: str,
        sha256: str,
        is_random: bool,
        precision: str,
        encoder: EncoderConfig,
        fit: str,
        areas: str = "",
        probe_sha256: str = "",
        **others: Any,
    ) -> "EncoderInfo":
        """Describe weights of these sizes in one precision; `others` are the attributes that the runtime knows.

        Args:
            encoder: settings that it was loaded with.
            fit: way that pictures are made square (vision.fit).
            areas: name of the areas that layers attend by; empty if none does.
            probe_sha256: hex digest of the attentive probe; empty if there is none.
        """
        identity = identify(spec, sha256, precision, encoder, fit, areas, probe_sha256)
        return cls(
            encoder_id=f"random-{identity}" if is_random else identity,
            model=encoder.model,
            window=encoder.window,
            recompute=encoder.recompute,
            weights=source,
            weights_sha256=sha256,
            weights_random=is_random,
            precision=precision,
            input_size=spec.input_size,
            tubelet_size=spec.tubelet_size,
            dim=spec.width,
            depth=spec.depth,
            **others,
        )


class Embedded(NamedTuple):
    """A tubelet after patch embedding.

    Attributes:
        patches: the backend's own array, to be handed to `EncoderState.step`.
        features: the same values for the gate, (S, D).
    """

    patches: Any
    features: npt.NDArray[np.float32]


class StepRequest(NamedTuple):
    """One stream's step, to be computed alone or with those of other streams.

    Attributes:
        state: from `Backend.new_state`.
        patches, token_idx: arguments of `EncoderState.step`.
    """

    state: Any
    patches: Any
    token_idx: npt.NDArray[np.int64] | None = None

    def compute(self) -> Vector:
        """Compute it alone; see EncoderState.step."""
        vector: Vector = self.state.step(self.patches, self.token_idx)
        return vector


class Movement(NamedTuple):
    """Change that a sparse step made to the outputs of some tokens.

    Attributes:
        mean: mean over these tokens of their outputs' change, (dim,).
        spread: root mean square distance of all the tubelet's outputs from their mean, a scale for its length.
    """

    mean: Vector
    spread: float


def token_buckets(tokens: int) -> tuple[int, ...]:
    """Numbers of tokens, of S, that a runtime computes which has to prepare each: an eighth, a quarter, half, all."""
    return tuple(-(-tokens * eighths // 8) for eighths in (1, 2, 4, 8))


def streams_together(spec: ModelSpec, recompute: int) -> int:
    """Choose how many streams are stepped as one on a CPU: a few of a small encoder, whose steps are mostly overhead.

    A larger one gains under a tenth by it (docs/node.md), and every camera would wait for the others' steps.
    """
    return MOST_TOGETHER if recompute * spec.tokens * spec.width <= MOST_JOINT_VALUES else 1


def unit(vector: Vector) -> Vector:
    """Scale to length 1; zeros stay zeros, as a grey picture through random weights gives them."""
    length = float(np.linalg.norm(vector))
    scaled: Vector = vector / length if length else vector
    return scaled


class EncoderState(Protocol):
    """One stream's cache."""

    @property
    def fill(self) -> int:
        """Tubelets in the cache."""
        ...

    def step(self, patches: Any, token_idx: npt.NDArray[np.int64] | None = None) -> Vector:
        """Encode a tubelet: pooled embedding (dim,), not scaled. On an exception the state is as before.

        Args:
            token_idx: tokens to compute, (M,) ascending, M one of EncoderInfo.token_counts; the others stay as they
                were computed last. None computes all, which a stream's first tubelet needs.
        """
        ...

    def movement(self, token_idx: npt.NDArray[np.int64]) -> Movement:
        """Tell how the last step changed the outputs of some tokens that it computed, (N,) of them, at least one."""
        ...

    def complete(self, patches: Any) -> Vector:
        """Encode the tubelet of the last step, a sparse one, again, with all its tokens; on an exception it is lost.

        Args:
            patches: the same as that step's.
        """
        ...

    def hold(self) -> None:
        """Let the newest tubelet stand for one more, as a step of no token: time goes on in the cache.

        Only where EncoderInfo.holds, and after a first step.
        """
        ...

    def peek(self, patches: Any) -> Vector:
        """Compute what `step` would return of all tokens, without a trace: no later result is changed by it."""
        ...

    def reset(self) -> None:
        """Empty the cache."""
        ...


class Backend(Protocol):
    """A loaded encoder, shared by all streams."""

    @property
    def info(self) -> EncoderInfo:
        """Constants of what was loaded."""
        ...

    @property
    def head(self) -> Head:
        """The checkpoint's own classifier; NoHead if it has none."""
        ...

    def embed(self, pixels: Pixels) -> Embedded:
        """Embed the patches of one tubelet: the cheap part, which the plan is made from."""
        ...

    def new_state(self) -> EncoderState:
        """Make an empty cache for one more stream."""
        ...


@runtime_checkable
class JointBackend(Backend, Protocol):
    """Backend that can compute the steps of several streams as one; EncoderInfo.together says where that is cheaper."""

    def step_together(self, requests: Sequence[StepRequest]) -> list[Vector]:
        """Compute the steps of different streams: of each what `EncoderState.step` would return, to rounding.

        On an exception the states are as before.
        """
        ...
