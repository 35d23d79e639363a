"""V-JEPA 2 encoder of streams: each step encodes one new tubelet against the cached past.

    patches  = model.embed(pixels)                          one tubelet: (2, 3, H, W) -> (S, D)
    outputs  = model.step([patches], [ring])                advances the ring by one tubelet
    outputs  = model.step([patches], [ring], [token_idx])   the same, but computes M of the S tokens only

Deeper layers see context that has left the window (receptive field L(W-1)+1 tubelets), because cached keys and values
carry what they attended to when they were written. So the stream is not "the encoder over the last W tubelets" -
unless recompute = W, which recomputes the whole window each step and then is exactly transformers' clip encoder.

A sparse step keeps the other tokens as they were computed last: their keys, values and outputs. It is exact for M = S,
and for a scene that has settled; else the kept ones do not see what has changed about them.

With merging (merging.py), each layer leaves fewer tokens than it took; a step then computes every tubelet whole.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from saccade_ros.encoder.areas import Areas
from saccade_ros.encoder.attention import Attention
from saccade_ros.encoder.kernels import choose_attention, pack_linears, prepare_norms
from saccade_ros.encoder.linear import Linear
from saccade_ros.encoder.merging import Merging, choose_merging
from saccade_ros.encoder.norm import ResidualNorm
from saccade_ros.encoder.positions import Indices
from saccade_ros.encoder.ring import Block, RingCache, make_blocks
from saccade_ros.encoder.rope import rotary_tables
from saccade_ros.encoder.spec import ModelSpec


class NonFiniteError(ArithmeticError):
    """NaN or infinity in a step's output; nothing was stored and nothing should be published."""


class StepOutput(NamedTuple):
    """Output of a step for one stream.

    Attributes:
        tokens: of the tubelets recomputed, newest last, after the final norm: (m, S, D). Of a sparse step, the one
            tubelet with its kept tokens as they were. With merging, those that the last layer leaves, fewer than S.
        newest: mean of the newest tubelet's, weighted by size where they are merged: (D,).
        window: mean over every tubelet in the window, each as last computed: (D,).
    """

    tokens: Tensor
    newest: Tensor
    window: Tensor


def patch_values(pixels: Tensor, side: int) -> Tensor:
    """Cut tubelets into patches of `side` pixels: (..., 2, 3, H, W) -> (..., S, 3*2*side*side)."""
    cells = pixels.unflatten(-1, (-1, side)).unflatten(-3, (-1, side))  # (..., 2, 3, g, p, g, p)
    ordered = cells.movedim((-4, -2, -5, -6, -3, -1), (-6, -5, -4, -3, -2, -1))  # (..., g, g, 3, 2, p, p)
    values: Tensor = ordered.flatten(-4).flatten(-3, -2)
    return values


class Projections(nn.Module):
    """Linear layers of attention: queries, keys and values in one, and the mixing of heads."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.qkv = Linear(spec.width, 3 * spec.width)
        self.proj = Linear(spec.width, spec.width)


class Layer(nn.Module):
    """Pre-norm transformer layer. Linear layers run over the tokens of all streams at once, attention by stream."""

    def __init__(self, spec: ModelSpec, layer: int) -> None:
        super().__init__()
        self.layer, self.heads = layer, spec.heads
        self.norm1 = ResidualNorm(spec.width, eps=spec.norm_eps)
        self.attention = Projections(spec)
        self.norm2 = ResidualNorm(spec.width, eps=spec.norm_eps)
        self.fc1 = Linear(spec.width, spec.mlp_width)
        self.fc2 = Linear(spec.mlp_width, spec.width)

    def forward(
        self, x: Tensor, update: Tensor | None, blocks: Sequence[Block], attend: Attention, merge: Merging
    ) -> tuple[Tensor, Tensor]:
        """Compute the layer over the tokens of all blocks, N the sum of their rows.

        Args:
            x: residual stream, (N, D) in fp32; the update and attention's output are added to it in place.
            update: the previous layer's output, (N, D).

        Returns:
            The residual stream, and this layer's output, still to be added, (N, D) each; N smaller where it merges.
        """
        qkv = self.attention.qkv(self.norm1(x, update)).unflatten(1, (3, self.heads, -1))  # (N, 3, A, E)
        by_stream = zip(qkv.split([merge.rows(self.layer, block) for block in blocks]), blocks, strict=True)
        attended = _joined([attend(self.layer, part, block) for part, block in by_stream])  # (N, D)
        x, update = merge(self.layer, x, self.attention.proj(attended), qkv, blocks)
        hidden = self.fc1.gelu(self.norm2(x, update))  # (N, mlp)
        return x, self.fc2(hidden)


class StreamingEncoder(nn.Module):
    """Encoder shared by all streams. Each stream's state is a RingCache from `new_ring`.

    Raises:
        ValueError: the window is longer than the clips the checkpoint was trained on, recompute exceeds it, or tokens
            are to be merged and recomputed.
    """

    def __init__(self, spec: ModelSpec, window: int, recompute: int = 1, merge: int = 0) -> None:
        super().__init__()
        spec.check_window(window, recompute)
        self.spec, self.window, self.recompute, self.areas = spec, window, recompute, Areas.whole(spec)
        self.merging = choose_merging(spec, merge, recompute)
        self.patch_embed = nn.Linear(spec.patch_values, spec.width)
        self.layers = nn.ModuleList(Layer(spec, i) for i in range(spec.depth))
        self.norm = ResidualNorm(spec.width, eps=spec.norm_eps)
        self._choose_attention(torch.device("cpu"), torch.float32)

    @property
    def device(self) -> torch.device:
        """Device that the weights are on."""
        return self.patch_embed.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision that the layers compute in."""
        return self.norm.dtype

    @property
    def cache_bytes(self) -> int:
        """Memory of one stream's cache, in bytes."""
        sizes = self.spec, self.window, self.recompute, self.attention.key_slot
        return RingCache.bytes_needed(*sizes, self.dtype, self.merging.merge)

    def prepare(self, device: torch.device, dtype: torch.dtype, int8: bool = False) -> "StreamingEncoder":
        """Move to a device and precision, once; returns self.

        The patch embedding stays fp32: it is 0.4 % of a step, and the gate compares its small differences.

        Args:
            int8: linear layers in int8, quantized here; the rest, as the cache, in dtype.
        """
        self.to(device)
        if device.type == "cpu" or int8:
            self._pack_linears(dtype, int8)
        self.to(dtype)
        self.patch_embed.to(torch.float32)
        prepare_norms(self, dtype)
        self._choose_attention(device, dtype)
        return self

    def _pack_linears(self, dtype: torch.dtype, int8: bool) -> None:
        """Pack each layer for its own number of rows: a layer that merges has fewer after its attention."""
        for layer, (entering, left) in zip(self.layers, pairwise(self.merging.counts), strict=True):
            assert isinstance(layer, Layer)
            pack_linears(layer.attention, dtype, self.recompute * entering, int8)
            pack_linears(layer, dtype, self.recompute * left, int8)

    def attend_by_area(self, areas: Areas) -> "StreamingEncoder":
        """Confine the first layers' attention to areas; returns self. Weights stay, rings are to be made anew.

        Raises:
            ValueError: the encoder merges tokens, and a merged one may stand for several areas.
        """
        if areas.are_on and self.merging.merge:
            raise ValueError(f"merge {self.merging.merge} with {areas.name}: merged tokens have no area; turn one off")
        self.areas = areas
        self._choose_attention(self.device, self.dtype)
        return self

    def _choose_attention(self, device: torch.device, dtype: torch.dtype) -> None:
        tables, variants = rotary_tables(self.spec, self.window), (self.merging.merge > 0, self.areas.are_on)
        self.attention: Attention = choose_attention(self.spec, tables, device, dtype, *variants)

    def new_ring(self) -> RingCache:
        """Allocate an empty cache for one more stream."""
        slots = self.attention.key_slot, self.attention.value_slot
        variants = self.merging.merge, self.areas
        return RingCache(self.spec, self.window, self.recompute, *slots, self.device, self.dtype, *variants)

    @torch.inference_mode()
    def embed(self, pixels: Tensor) -> Tensor:
        """Embed the patches of a normalised tubelet: (2, 3, H, W) -> (S, D).

        A convolution whose stride is its kernel is one matrix product over the patches, several times faster on CPU.
        """
        spec = self.spec
        if pixels.shape != spec.pixels_shape:
            raise ValueError(f"tubelet has shape {tuple(pixels.shape)}; {spec.name} takes {spec.pixels_shape}")
        embedded: Tensor = self.patch_embed(patch_values(self._upload(pixels), spec.patch_size))
        return embedded

    def _upload(self, pixels: Tensor) -> Tensor:
        """To the device; to a GPU through pinned memory, without waiting."""
        if self.device.type == "cuda":
            return pixels.pin_memory().to(self.device, non_blocking=True)
        return pixels

    @torch.inference_mode()
    def step(
        self, patches: Sequence[Tensor], rings: Sequence[RingCache], token_idx: Sequence[Indices | None] | None = None
    ) -> list[StepOutput]:
        """Encode one new tubelet of each of B streams, whatever the fill of each.

        Args:
            patches: B tensors (S, D) from `embed`.
            rings: their caches, all different; each advances by one tubelet, or none does if this raises.
            token_idx: of each stream, the tokens to compute, (M,) ascending; None, of one or of all, computes all.

        Raises:
            NonFiniteError: an output is NaN or infinite.
            ValueError: a stream's first tubelet, or one with recompute above 1 or merging, is to be computed in part.
        """
        blocks = make_blocks(rings, token_idx or [None] * len(rings))
        return self.finish(self.run(patches, blocks), rings)

    def run(self, patches: Sequence[Tensor], blocks: Sequence[Block]) -> list[StepOutput]:
        """Compute the step on the device alone, as a CUDA graph captures it. Advances no ring."""
        for block in blocks:
            block.rotations = self.attention.rotations(block)
            self.merging.begin(block)
        x = torch.cat([block.append(new) for block, new in zip(blocks, patches, strict=True)])  # (N, D), fp32
        update = None
        for layer in self.layers:
            x, update = layer(x, update, blocks, self.attention, self.merging)
        computed: Tensor = self.norm(x, update)  # (N, D)
        rows = [self.merging.rows(self.spec.depth, block) for block in blocks]
        return [self._pool(block.paint(part), block) for part, block in zip(computed.split(rows), blocks, strict=True)]

    def _pool(self, tokens: Tensor, block: Block) -> StepOutput:
        """Pool whole tubelets, (m, S, D)."""
        means = self.merging.mean(tokens, block)  # (m, D)
        return StepOutput(tokens, means[-1], block.pool(means))

    @staticmethod
    def finish(outputs: list[StepOutput], rings: Sequence[RingCache]) -> list[StepOutput]:
        """Keep the outputs and advance the rings, if every output is finite."""
        if not all(bool(torch.isfinite(output.window).all()) for output in outputs):
            raise NonFiniteError("the encoder's output is NaN or infinite: check the weights and the input")
        for ring, output in zip(rings, outputs, strict=True):
            ring.keep(output.tokens[-1])
            ring.advance()
        return outputs


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]
