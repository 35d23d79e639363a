"""Info and host-side state of an exported step, shared by every runtime of one."""

from abc import ABC, abstractmethod
from collections import deque
from typing import Any

import numpy as np

from saccade_ros.backends.base import EncoderInfo, unit
from saccade_ros.backends.manifest import Artifact, Manifest
from saccade_ros.backends.window import Floats, StepShape, StepTables, WindowTables
from saccade_ros.config import EncoderConfig
from saccade_ros.encoder.positions import Indices, filled_slots
from saccade_ros.frames import Vector

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}  # of a cached value; integer precisions quantize weights, not the cache


def exported_info(
    manifest: Manifest, artifact: Artifact, encoder: EncoderConfig, device: str, threads: int
) -> EncoderInfo:
    """EncoderInfo of an artifact. The encoder id is torch's for the same weights, so fp32 vectors compare with it."""
    model, spec, shape = manifest.model, manifest.spec, manifest.step_shape
    return EncoderInfo.of(
        spec,
        model.source,
        model.sha256,
        model.is_random,
        artifact.precision,
        model=encoder.model,
        backend=artifact.runtime,
        device=device,
        threads=threads,
        window=shape.window,
        recompute=shape.recompute,
        patch_scale=model.patch_scale,
        cache_bytes=shape.cache_bytes(BYTES.get(artifact.precision, 4)),
        token_counts=(spec.tokens,),
    )


class ExportedState(ABC):
    """One stream of an exported step: counts, keeps the block's patches and the pooled outputs. See EncoderState.

    A step that fails before its outputs are accepted leaves no trace: the next one writes the same slots first.
    """

    def __init__(self, shape: StepShape, tables: WindowTables, encoder: EncoderConfig) -> None:
        self.shape, self._tables = shape, tables
        self._pooling, self._normalize = encoder.pooling, encoder.normalize
        self._block: deque[Floats] = deque(maxlen=shape.recompute)
        self._means = np.zeros((shape.window, shape.spec.width), np.float32)
        self.count = 0

    @property
    def fill(self) -> int:
        """See EncoderState."""
        return filled_slots(self.count, self.shape.window)

    def step(self, patches: Floats, token_idx: Indices | None = None) -> Vector:
        """See EncoderState.

        Raises:
            ArithmeticError: an output is NaN or infinite.
            ValueError: only some tokens are to be computed.
        """
        if token_idx is not None and len(token_idx) < self.shape.spec.tokens:
            raise ValueError(f"{len(token_idx)} tokens are to be computed: this export computes all of them")
        shape, tables = self.shape, self._tables.at(self.count)
        kept = list(self._block)[-(shape.recompute - 1) :] if shape.recompute > 1 else []
        missing = [np.zeros_like(patches)] * (shape.recompute - 1 - len(kept))
        means = self._run(np.concatenate([*missing, *kept, patches]), tables)[-tables.size :]  # (m, D)
        if not np.isfinite(means).all():
            raise ArithmeticError("the encoder's output is NaN or infinite: check the weights and the input")
        self._block.append(patches)
        self._means[tables.slots[-tables.size :]] = means
        self.count += 1
        return self._pooled(means[-1])

    def peek(self, patches: Floats) -> Vector:
        """See EncoderState. A step that is not counted: the next one writes the same slots first."""
        count, block = self.count, self._block.copy()
        try:
            return self.step(patches)
        finally:
            self.count, self._block = count, block

    def reset(self) -> None:
        """See EncoderState."""
        if self.count:
            self._empty_ring()
        self._block.clear()
        self.count = 0

    def _pooled(self, newest: Vector) -> Vector:
        pooled = newest if self._pooling == "newest" else self._means[: self.fill].mean(axis=0)
        return unit(pooled) if self._normalize else pooled.copy()

    @abstractmethod
    def _run(self, block: Floats, tables: StepTables) -> Floats:
        """Compute one step over the block's patches (r*S, D) and write its slots; returns means (r, D)."""

    @abstractmethod
    def _empty_ring(self) -> None:
        """Make every slot invalid, and its values finite."""


def table_feeds(shape: StepShape, tables: StepTables, block: Floats) -> dict[str, Any]:
    """Gather one stream's inputs of a step but the ring, by name, with the batch axis."""
    feeds: dict[str, Any] = {"patches": block[None], "slots": tables.slots[:, None]}
    names = ["query_cos", "query_sin", "key_cos", "key_sin"] + ["key_offset"] * (shape.recompute > 1)
    return feeds | {name: getattr(tables, name)[None] for name in names}
