"""From a step's tokens to one vector. One pooling per stream; a choice of `encoder.pooling` each."""

from typing import Protocol

import torch
from torch import Tensor

from saccade_ros.encoder.model import StepOutput, StreamingEncoder
from saccade_ros.encoder.probe import AttentiveProbe


class Pooling(Protocol):
    """Makes the embedding. `nbytes` is the memory it holds."""

    @property
    def nbytes(self) -> int: ...

    def pool(self, output: StepOutput) -> Tensor:
        """Call once per step: (D,)."""
        ...

    def reset(self) -> None:
        """The stream starts afresh."""
        ...


class NewestPooling:
    """Mean of the newest tubelet's tokens."""

    nbytes = 0

    def pool(self, output: StepOutput) -> Tensor:
        """See Pooling."""
        return output.newest

    def reset(self) -> None:
        """See Pooling."""


class WindowPooling:
    """Mean over the window, each tubelet as last computed."""

    nbytes = 0

    def pool(self, output: StepOutput) -> Tensor:
        """See Pooling."""
        return output.window

    def reset(self) -> None:
        """See Pooling."""


class ProbePooling:
    """The attentive probe over the window's tokens, each tubelet's as last computed: (W*S, D) -> (D,)."""

    def __init__(self, probe: AttentiveProbe, encoder: StreamingEncoder) -> None:
        self._probe, self._count = probe, 0
        spec, like = encoder.spec, encoder.norm.weight
        self._tokens = torch.zeros(encoder.window, spec.tokens, spec.width, device=like.device, dtype=like.dtype)
        self.nbytes = self._tokens.nbytes

    @torch.inference_mode()
    def pool(self, output: StepOutput) -> Tensor:
        """See Pooling."""
        newest, window = self._count, len(self._tokens)
        block_idx = torch.arange(newest - len(output.tokens) + 1, newest + 1, device=self._tokens.device)
        self._tokens[block_idx % window] = output.tokens  # (m, S, D)
        self._count += 1
        pooled: Tensor = self._probe(self._tokens[: min(self._count, window)].flatten(0, 1))
        return pooled

    def reset(self) -> None:
        """See Pooling."""
        self._count = 0
