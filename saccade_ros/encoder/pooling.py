"""Poolings of a step's tokens to one vector, one per choice of `encoder.pooling`; each stream has its own."""

from typing import Protocol

import torch
from torch import Tensor

from saccade_ros.encoder.model import StepOutput, StreamingEncoder
from saccade_ros.encoder.positions import StepIndices
from saccade_ros.encoder.probe import AttentiveProbe


class Pooling(Protocol):
    """Maker of embeddings from the outputs of one stream's steps."""

    @property
    def nbytes(self) -> int:
        """Memory it holds, in bytes."""
        ...

    def pool(self, output: StepOutput, newest: int) -> Tensor:
        """Pool a step's output to its embedding, (D,); its newest tubelet was number `newest` since reset."""
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
        step = StepIndices(newest, window=len(self._tokens), recompute=len(output.tokens))
        slot_idx = torch.from_numpy(step.slots(step.block_idx)).to(self._tokens.device)  # (m,)
        self._tokens[slot_idx] = output.tokens  # (m, S, D)
        pooled: Tensor = self._probe(self._tokens[: step.fill].flatten(0, 1))  # (fill*S, D) -> (D,)
        return pooled
