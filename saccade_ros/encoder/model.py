"""V-JEPA 2's encoder as a stream: each step encodes one new tubelet against the cached past.

    patches  = model.embed(pixels)             one tubelet: (2, 3, H, W) -> (S, D)
    outputs  = model.step([patches], [ring])   advances the ring by one tubelet

Deeper layers see context that has left the window (receptive field L(W-1)+1 tubelets), because cached keys and values
carry what they attended to when they were written. So the stream is not "the encoder over the last W tubelets" -
unless lookback = W, which recomputes the whole window each step and then is exactly transformers' clip encoder.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade_ros.encoder.ring import Block, RingCache
from saccade_ros.encoder.rope import RotaryTables, rotary_tables, rotate
from saccade_ros.encoder.spec import ModelSpec


class NonFiniteError(ArithmeticError):
    """The input or the model produced NaN or infinity; nothing was stored and nothing should be published."""


class StepOutput(NamedTuple):
    """What a step says about one stream.

    Attributes:
        tokens: of the tubelets recomputed, newest last, after the final norm: (m, S, D).
        newest: mean of the newest tubelet's: (D,).
        window: mean over every tubelet in the window, each as last computed: (D,).
    """

    tokens: Tensor
    newest: Tensor
    window: Tensor


class CachedAttention(nn.Module):
    """Self-attention of a block's tokens over everything in the ring; no mask, none is needed."""

    def __init__(self, spec: ModelSpec, layer: int) -> None:
        super().__init__()
        self.layer, self.heads = layer, spec.heads
        self.qkv = nn.Linear(spec.width, 3 * spec.width)
        self.proj = nn.Linear(spec.width, spec.width)

    def forward(self, x: Tensor, blocks: Sequence[Block]) -> Tensor:
        """x: tokens of all blocks, (sum of m*S, D). Linear layers run over all streams at once, attention by stream."""
        qkv = self.qkv(x).view(len(x), 3, self.heads, -1).permute(1, 2, 0, 3)  # (3, A, N, E)
        by_stream = qkv.split([block.rows for block in blocks], dim=2)
        attended = [self._attend(q, k, v, block) for (q, k, v), block in zip(by_stream, blocks, strict=True)]
        mixed: Tensor = self.proj(torch.cat(attended))
        return mixed

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, block: Block) -> Tensor:
        """One stream: (A, m*S, E) each -> (m*S, D)."""
        q, k, v = (part.unflatten(1, (block.size, -1)) for part in (q, k, v))  # (A, m, S, E)
        block.write(self.layer, k, v)
        keys, values = block.read(self.layer)  # (A, fill*S, E)
        queries = rotate(q, block.query_rotation).flatten(1, 2)  # (A, m*S, E)
        out = F.scaled_dot_product_attention(queries[None], keys[None], values[None])[0]  # (A, m*S, E)
        return out.transpose(0, 1).flatten(1)  # (m*S, D)


class Layer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, spec: ModelSpec, layer: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.attention = CachedAttention(spec, layer)
        self.norm2 = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.fc1 = nn.Linear(spec.width, spec.mlp_width)
        self.fc2 = nn.Linear(spec.mlp_width, spec.width)

    def forward(self, x: Tensor, blocks: Sequence[Block]) -> Tensor:
        """x: (N, D) -> (N, D)."""
        x = x + self.attention(self.norm1(x), blocks)
        mlp: Tensor = self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return x + mlp


class StreamingEncoder(nn.Module):
    """The model shared by all streams. Each stream's state is a RingCache from `new_ring`.

    Raises:
        ValueError: the window is longer than the clips the checkpoint was trained on, or lookback exceeds it.
    """

    tables: RotaryTables

    def __init__(self, spec: ModelSpec, window: int, lookback: int = 1) -> None:
        super().__init__()
        if not 1 <= window <= spec.trained_tubelets:
            raise ValueError(
                f"window {window} is outside 1..{spec.trained_tubelets}, the positions that {spec.name} was trained "
                f"on ({spec.frames_per_clip} frames per clip)"
            )
        if not 1 <= lookback <= window:
            raise ValueError(f"lookback {lookback} is outside 1..{window}, the window")
        self.spec, self.window, self.lookback = spec, window, lookback
        self.patch_embed = nn.Linear(spec.patch_values, spec.width)
        self.layers = nn.ModuleList(Layer(spec, i) for i in range(spec.depth))
        self.norm = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.tables = rotary_tables(spec, window)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.patch_embed.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the layers compute in."""
        return self.norm.weight.dtype

    def place(self, device: torch.device, dtype: torch.dtype) -> "StreamingEncoder":
        """Move weights and rotation tables; returns self. The tables are rounded from fp32.

        The patch embedding stays fp32: it is 0.4 % of a step, and the gate compares its small differences.
        """
        self.to(device, dtype)
        self.patch_embed.to(torch.float32)
        self.tables = RotaryTables(*(table.to(device, dtype) for table in rotary_tables(self.spec, self.window)))
        return self

    def new_ring(self) -> RingCache:
        """An empty cache for one more stream."""
        return RingCache(self.spec, self.window, self.lookback, self.device, self.dtype)

    @torch.inference_mode()
    def embed(self, pixels: Tensor) -> Tensor:
        """Patch embeddings of a normalised tubelet: (2, 3, H, W) -> (S, D).

        A convolution whose stride is its kernel is one matrix product over the patches, several times faster on CPU.
        """
        spec, side = self.spec, self.spec.patch_size
        expected = (spec.tubelet_size, 3, spec.input_size, spec.input_size)
        if pixels.shape != expected:
            raise ValueError(f"tubelet has shape {tuple(pixels.shape)}; {spec.name} takes {expected}")
        cells = pixels.to(self.device).unflatten(3, (-1, side)).unflatten(2, (-1, side))  # (2,3,g,p,g,p)
        patches = cells.permute(2, 4, 1, 0, 3, 5).reshape(spec.tokens, spec.patch_values)  # (S, 3*2*p*p)
        embedded: Tensor = self.patch_embed(patches)
        return embedded

    @torch.inference_mode()
    def step(self, patches: Sequence[Tensor], rings: Sequence[RingCache]) -> list[StepOutput]:
        """Encode one new tubelet of each of B streams, whatever the fill of each.

        Args:
            patches: B tensors (S, D) from `embed`.
            rings: their caches, all different; each advances by one tubelet, or none does if this raises.

        Raises:
            NonFiniteError: an output is NaN or infinite.
        """
        if len({id(ring) for ring in rings}) < len(rings):
            raise ValueError("the same ring is given twice: a stream advances one tubelet per step")
        blocks = [Block(ring, new, self.tables) for new, ring in zip(patches, rings, strict=True)]
        x = torch.cat([block.patches.flatten(0, 1) for block in blocks])  # (N, D)
        for layer in self.layers:
            x = layer(x, blocks)
        outputs: Tensor = self.norm(x).unflatten(0, (-1, self.spec.tokens))  # (sum of m, S, D)
        means = outputs.mean(dim=1)  # (sum of m, D)
        if not torch.isfinite(means).all():
            raise NonFiniteError("the encoder's output is NaN or infinite: check the weights and the input")
        sizes = [block.size for block in blocks]
        return [self._commit(*done) for done in zip(blocks, outputs.split(sizes), means.split(sizes), strict=True)]

    @staticmethod
    def _commit(block: Block, outputs: Tensor, means: Tensor) -> StepOutput:
        block.commit(means)
        return StepOutput(outputs, means[-1], block.ring.window_mean())
