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

    def pool(self, output: StepOutput, newest: int) -> Tensor:
        """A step's embedding, (D,); its newest tubelet was number `newest` since reset."""
        ...


class NewestPooling:
    """Mean of the newest tubelet's tokens."""

    nbytes = 0

    def pool(self, output: StepOutput, newest: int) -> Tensor:
        """See Pooling."""
        return output.newest


class WindowPooling:
    """Mean over the window, each tubelet as last computed."""

    nbytes = 0

    def pool(self, output: StepOutput, newest: int) -> Tensor:
        """See Pooling."""
        return output.window


class ProbePooling:
    """The attentive probe over the window's tokens, each tubelet's as last computed: (W*S, D) -> (D,)."""

    def __init__(self, probe: AttentiveProbe, encoder: StreamingEncoder) -> None:
        self._probe, spec = probe, encoder.spec
        slots = encoder.window, spec.tokens, spec.width
        self._tokens = torch.zeros(*slots, device=encoder.device, dtype=encoder.dtype)
        self.nbytes = self._tokens.nbytes

    @torch.inference_mode()
    def pool(self, output: StepOutput, newest: int) -> Tensor:
        """See Pooling."""
        window = len(self._tokens)
        block_idx = torch.arange(newest - len(output.tokens) + 1, newest + 1, device=self._tokens.device)
        self._tokens[block_idx % window] = output.tokens  # (m, S, D)
        pooled: Tensor = self._probe(self._tokens[: min(newest + 1, window)].flatten(0, 1))
        return pooled
