"""Reuse of keys and values alone, the baseline of sparse steps: every token is computed, some are not projected.

Queries, attention and MLP run over all tokens of a tubelet. Of tokens that did not change, keys and values are those
that were projected last, as in the previous slot of the ring. So what can be saved is two of a layer's twelve D x D
products, a speed-up of 1.2 at most (1.19 in the estimate that this baseline comes from), and less of a step, which
attends as well.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from saccade_ros.backends.base import BackendError, Embedded, EncoderInfo, Movement
from saccade_ros.backends.torch_backend import TorchBackend, TorchState
from saccade_ros.encoder.linear import Linear
from saccade_ros.encoder.model import Layer, StreamingEncoder
from saccade_ros.encoder.positions import Indices
from saccade_ros.frames import Pixels, Vector
from saccade_ros.heads import Head


class ReusingProjection(nn.Module):
    """Queries, keys and values of one layer and one stream, of which keys and values are projected where asked for.

    Keys are kept as projected, before their rotation by row and column, which does not depend on time: rotated anew,
    they are those of the previous slot.

    Attributes:
        token_idx: tokens whose keys and values are projected by the next call, (M,); None projects all.
    """

    token_idx: Tensor | None = None
    _kept: Tensor

    def __init__(self, qkv: Linear) -> None:
        super().__init__()
        width = qkv.in_features
        self.queries, self.pairs = Linear(width, width), Linear(width, 2 * width)
        for part, weight, bias in zip(
            (self.queries, self.pairs),
            qkv.weight.split([width, 2 * width]),
            qkv.bias.split([width, 2 * width]),
            strict=True,
        ):
            part.weight, part.bias = (nn.Parameter(value.detach().clone()) for value in (weight, bias))

    def forward(self, x: Tensor) -> Tensor:
        """Project: (S, D) -> (S, 3 D)."""
        if self.token_idx is None:
            self._kept = self.pairs(x)  # (S, 2 D)
        else:
            self._kept = self._kept.index_copy(0, self.token_idx, self.pairs(x[self.token_idx]))  # (S, 2 D)
        return torch.cat([self.queries(x), self._kept], dim=1)


class ReusingState:
    """EncoderState that computes every token, and projects the keys and values of the planned ones."""

    def __init__(self, state: TorchState, projections: Sequence[ReusingProjection]) -> None:
        self._state, self._projections = state, projections

    @property
    def fill(self) -> int:
        """See EncoderState."""
        return self._state.fill

    def step(self, patches: Any, token_idx: Indices | None = None) -> Vector:
        """See EncoderState."""
        for projection in self._projections:
            projection.token_idx = None if token_idx is None else torch.from_numpy(token_idx)
        return self._state.step(patches)

    def movement(self, token_idx: Indices) -> Movement:
        """See EncoderState."""
        return self._state.movement(token_idx)

    def complete(self, patches: Any) -> Vector:
        """See EncoderState."""
        self._project_all()
        return self._state.complete(patches)

    def hold(self) -> None:
        """See EncoderState."""
        self._state.hold()

    def peek(self, patches: Any) -> Vector:
        """See EncoderState. What is kept of keys and values is not: call it last."""
        self._project_all()
        return self._state.peek(patches)

    def reset(self) -> None:
        """See EncoderState."""
        self._state.reset()

    def _project_all(self) -> None:
        for projection in self._projections:
            projection.token_idx = None


class ReusingBackend:
    """Backend of one stream at a time that reuses keys and values.

    Args:
        backend: of an encoder whose projections these are.

    Raises:
        BackendError: the encoder is on a GPU, where a captured step could not choose tokens.
    """

    def __init__(self, backend: TorchBackend, projections: Sequence[ReusingProjection]) -> None:
        if backend.info.device != "cpu":
            raise BackendError("KV-only reuse is written for CPUs: set backend.device cpu to see it")
        self._backend, self._projections = backend, projections

    @property
    def info(self) -> EncoderInfo:
        """See Backend."""
        return self._backend.info

    @property
    def head(self) -> Head:
        """See Backend."""
        return self._backend.head

    def embed(self, pixels: Pixels) -> Embedded:
        """See Backend."""
        return self._backend.embed(pixels)

    def new_state(self) -> ReusingState:
        """See Backend."""
        return ReusingState(self._backend.new_state(), self._projections)


def reuse_keys_and_values(encoder: StreamingEncoder) -> list[ReusingProjection]:
    """Replace the projections of every layer, before the encoder is prepared; return the new ones."""
    projections = []
    for layer in encoder.layers:
        assert isinstance(layer, Layer)
        projections.append(ReusingProjection(layer.attention.qkv))
        layer.attention.qkv = projections[-1]  # type: ignore[assignment]  # called in the same way
    return projections
