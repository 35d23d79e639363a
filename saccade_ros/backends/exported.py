"""Backend and host-side state of a step that is a graph, an export or made of a checkpoint, for every runtime."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from saccade_ros.backends.base import BackendError, Embedded, EncoderInfo, Movement
from saccade_ros.backends.manifest import ModelInfo
from saccade_ros.backends.window import Floats, StepShape, StepTables, WindowTables
from saccade_ros.config import EncoderConfig
from saccade_ros.encoder.positions import Indices, filled_slots
from saccade_ros.frames import Pixels, Vector
from saccade_ros.heads import NoHead

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}  # of a cached value; integer precisions quantize weights, not the cache


def step_info(
    model: ModelInfo,
    shape: StepShape,
    runtime: str,
    precision: str,
    encoder: EncoderConfig,
    fit: str,
    device: str,
    threads: int,
    token_counts: tuple[int, ...],
) -> EncoderInfo:
    """EncoderInfo of a graph's step. Its id is torch's for the same weights, so that fp32 vectors compare with it."""
    return EncoderInfo.of(
        shape.spec,
        model.source,
        model.sha256,
        model.is_random,
        precision,
        encoder,
        fit,
        shape.areas.name,
        backend=runtime,
        device=device,
        threads=threads,
        patch_scale=model.patch_scale,
        cache_bytes=shape.cache_bytes(BYTES.get(precision, 4)),
        token_counts=token_counts,
        holds=shape.can_be_sparse and runtime in ("onnxruntime", "openvino"),
    )


@contextmanager
def importing_graphs(model: str, extra: str) -> Iterator[None]:
    """A block that imports what makes a graph of a checkpoint, which an export does not need.

    Args:
        extra: of saccade_ros, with which pip brings what is imported.

    Raises:
        BackendError: something is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        raise BackendError(
            f"encoder.model {model!r} is a checkpoint, of which {missing.name} makes a graph, and it is not installed: "
            f"pip install saccade_ros[{extra}], or give a folder that `saccade export` wrote"
        ) from missing


class ExportedBackend(ABC):
    """Graphs of a step and of its front end on one runtime. There is no classifier in either.

    Attributes:
        shape: sizes of the step.
    """

    head = NoHead()
    shape: StepShape
    info: EncoderInfo

    def embed(self, pixels: Pixels) -> Embedded:
        """See Backend."""
        expected = self.shape.spec.pixels_shape
        if pixels.shape != expected:
            raise ValueError(f"tubelet has shape {pixels.shape}; this model takes {expected}")
        patches = self._embed_patches(pixels)
        return Embedded(patches, patches)

    @abstractmethod
    def new_state(self) -> "ExportedState":
        """See Backend."""

    @abstractmethod
    def _embed_patches(self, pixels: Pixels) -> Floats:
        """Compute the patch embedding, (S, D)."""


class ExportedState(ABC):
    """One stream of an exported step: counts, keeps the block's patches, its tokens and the pooled outputs.

    A step that fails before its outputs are accepted leaves no trace: the next one writes the same slots first. See
    EncoderState.
    """

    def __init__(self, shape: StepShape, tables: WindowTables, encoder: EncoderConfig) -> None:
        self.shape, self._tables = shape, tables
        self._pooling = encoder.pooling
        self._block: deque[Floats] = deque(maxlen=shape.recompute)
        self._tokens: Floats = np.zeros((shape.recompute, shape.counts[-1], shape.spec.width), np.float32)
        self._tokens_before = self._tokens  # the same before the last step
        self._means = np.zeros((shape.window, shape.spec.width), np.float32)
        self.count = 0

    @property
    def fill(self) -> int:
        """See EncoderState."""
        return filled_slots(self.count, self.shape.window)

    @property
    def tokens(self) -> Floats:
        """Tokens of the newest r tubelets, each as computed last, oldest first: (r, S, D), fewer where they merge."""
        return self._tokens

    def step(self, patches: Floats, token_idx: Indices | None = None) -> Vector:
        """See EncoderState.

        Raises:
            ArithmeticError: an output is NaN or infinite.
            ValueError: a step that cannot be sparse is to compute some tokens only.
        """
        self._check(token_idx)
        tables = self._tables.at(self.count, token_idx)
        outputs = self._run(self._planned(patches, tables), tables)
        tokens = self._paint(outputs["tokens"], tables)  # (r, S, D)
        means = np.average(tokens[-tables.size :], axis=1, weights=outputs.get("sizes"))  # (m, D)
        if not np.isfinite(means).all():
            raise ArithmeticError("the encoder's output is NaN or infinite: check the weights and the input")
        self._block.append(patches)
        self._tokens_before, self._tokens = self._tokens, tokens
        self._means[tables.slots[-tables.size :]] = means
        self.count += 1
        return self._pooled(means[-1])

    def hold(self) -> None:
        """See EncoderState."""
        none = np.empty(0, np.int64)
        self._check(none)
        tables = self._tables.at(self.count, none)
        self._run(np.empty((0, self.shape.spec.width), np.float32), tables)
        self._means[tables.slots] = self._means[tables.previous_slot]
        self.count += 1

    def peek(self, patches: Floats) -> Vector:
        """See EncoderState. A step that is not counted: the next one writes the same slots first."""
        kept = self.count, self._block.copy(), self._tokens, self._tokens_before
        try:
            return self.step(patches)
        finally:
            self.count, self._block, self._tokens, self._tokens_before = kept

    def movement(self, token_idx: Indices) -> Movement:
        """See EncoderState."""
        now, before = self._tokens[-1], self._tokens_before[-1]  # (S, D)
        spread = np.sqrt(np.square(now - now.mean(axis=0)).sum(axis=1).mean())
        return Movement((now[token_idx] - before[token_idx]).mean(axis=0), float(spread))

    def complete(self, patches: Floats) -> Vector:
        """See EncoderState."""
        self.step_back()
        return self.step(patches)

    def step_back(self) -> None:
        """Take the last step back, once: the next one writes the same slots."""
        self.count, self._tokens = self.count - 1, self._tokens_before
        self._block.pop()

    def reset(self) -> None:
        """See EncoderState."""
        if self.count:
            self._empty_ring()
        self._block.clear()
        self._tokens = self._tokens_before = np.zeros_like(self._tokens)
        self.count = 0

    def _check(self, token_idx: Indices | None) -> None:
        """Refuse a sparse step that has nothing to start from."""
        shape = self.shape
        if token_idx is not None and not (shape.can_be_sparse and self.count):
            raise ValueError(
                f"{len(token_idx)} of {shape.spec.tokens} tokens are to be computed, after {self.count} tubelets, with "
                f"window {shape.window} and recompute {shape.recompute}: the first tubelet of an export, and any with "
                "window 1, recompute above 1 or merging, is computed whole"
            )

    def _planned(self, patches: Floats, tables: StepTables) -> Floats:
        """Patches of the rows to compute, of the block with zeros for what is not there yet: (M, D)."""
        recomputed = self.shape.recompute - 1
        kept = list(self._block)[-recomputed:] if recomputed else []
        missing = [np.zeros_like(patches)] * (recomputed - len(kept))
        return tables.rows_of(np.stack([*missing, *kept, patches]))

    def _paint(self, rows: Floats, tables: StepTables) -> Floats:
        """Complete the computed rows (M, D) to whole tubelets, which are memory of their own: (r, S, D)."""
        tokens: Floats = self._tokens.copy()
        token_idx = tables.token_idx[: tokens.shape[1]]  # (M / r,), in merged steps those that are left
        tokens[:, token_idx] = rows.reshape(len(tokens), -1, rows.shape[-1])  # (r, M / r, D)
        return tokens

    def _pooled(self, newest: Vector) -> Vector:
        pooled = newest if self._pooling == "newest" else self._means[: self.fill].mean(axis=0)
        vector: Vector = pooled.copy()
        return vector

    @abstractmethod
    def _run(self, patches: Floats, tables: StepTables) -> dict[str, Floats]:
        """Compute one step over rows of patches (M, D) and write its slots.

        Returns:
            tokens, (M, D); where tokens merge also sizes, the patches that each that is left stands for, (M,).
        """

    @abstractmethod
    def _empty_ring(self) -> None:
        """Make every slot invalid, and its values finite."""


def step_feeds(shape: StepShape, tables: StepTables, patches: Floats) -> dict[str, npt.NDArray[Any]]:
    """Gather one stream's inputs of a step but the ring, by name, with the batch axis."""
    feeds: dict[str, npt.NDArray[Any]] = {"patches": patches[None], "slots": tables.slots[:, None]}
    if shape.can_be_sparse:
        feeds |= {"previous_slot": np.array([tables.previous_slot]), "select": tables.select[None]}
        feeds |= {"area_counts": tables.area_counts} if shape.areas.are_on else {}
    names = ["query_cos", "query_sin", "key_cos", "key_sin"] + ["key_offset"] * (shape.recompute > 1)
    return feeds | {name: getattr(tables, name)[None] for name in names}


def write_slots(
    shape: StepShape, tables: StepTables, layer: int, ring: npt.NDArray[Any], new: npt.NDArray[Any]
) -> None:
    """Copy a layer's keys or values of the block, (1, A, r*S, .), into its slots of the ring, (1, A, W*S, .)."""
    tokens = shape.counts[layer]
    for j, slot in enumerate(tables.slots):
        ring[:, :, slot * tokens : (slot + 1) * tokens] = new[:, :, j * tokens : (j + 1) * tokens]
