"""Differentiable stream with recompute 1 (the student) and clip encoder (the teacher), over a whole clip at once.

The cached step writes its ring in place and keeps nothing to differentiate. But each tubelet's keys and values are
computed once and never changed, so a clip's stream is one banded pass, which gradients flow through: tubelet n attends
to the W newest, at their window positions (positions.py). While n < W that is a block-causal mask at absolute
positions; later every query has its own rotation of the same keys, so the pass goes tubelet by tubelet inside a layer
and needs no mask.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade_ros.encoder.model import Layer, StreamingEncoder
from saccade_ros.encoder.positions import StepIndices
from saccade_ros.encoder.rope import Rotation, rotary_tables, rotate


def stream_tokens(encoder: StreamingEncoder, patches: Tensor) -> Tensor:
    """Compute each tubelet's newest tokens as `step` does from an empty ring on: (T, S, D) -> (T, S, D)."""
    table = rotary_tables(encoder.spec, encoder.window).query  # (W, S, E)
    x = patches  # (T, S, D)
    for layer in encoder.layers:
        assert isinstance(layer, Layer)
        qkv = layer.attention.qkv(layer.norm1(x))  # (T, S, 3D)
        x = _finish(layer, x, _attend_banded(qkv, encoder.spec.heads, table))
    tokens: Tensor = encoder.norm(x)
    return tokens


def block_tokens(encoder: StreamingEncoder, patches: Tensor, causal: bool, kept: Tensor | None = None) -> Tensor:
    """Compute the tokens of many short clips at once, T <= W: (B, T, S, D) -> (B, T, S, D).

    Args:
        causal: as `stream_tokens` has them; else as the clip encoder has them, every tubelet sees every other.
        kept: indices of the patches to compute, the same in every tubelet, (B, K) int64; None computes all. The others
            are not there: nothing attends to them.

    Returns:
        (B, T, S, D), or (B, T, K, D).
    """
    _, tubelets, _, width = patches.shape
    table = rotary_tables(encoder.spec, encoder.window).query  # (W, S, E)
    rotation = Rotation(*(part[:tubelets].flatten(0, 1) for part in table))  # (T*S, E)
    if kept is not None:
        at = kept[:, None, :, None].expand(-1, tubelets, -1, 1)  # (B, T, K, 1)
        patches = patches.gather(2, at.expand(-1, -1, -1, width))  # (B, T, K, D)
        rotation = Rotation(*(_rows(part[:tubelets], at) for part in table))  # (B, 1, T*K, E)
    x = patches.flatten(1, 2)  # (B, T*K, D)
    mask = _block_causal_mask(tubelets, patches.shape[2]) if causal else None
    for layer in encoder.layers:
        assert isinstance(layer, Layer)
        qkv = layer.attention.qkv(layer.norm1(x))  # (B, T*K, 3D)
        q, k, v = qkv.unflatten(-1, (3, encoder.spec.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, A, T*K, E) each
        q, k = rotate(q, rotation), rotate(k, rotation)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B, A, T*K, E)
        x = _finish(layer, x, attended.transpose(1, 2).flatten(2))
    tokens: Tensor = encoder.norm(x)
    blocks: Tensor = tokens.unflatten(1, (tubelets, -1))
    return blocks


def _rows(table: Tensor, at: Tensor) -> Tensor:
    """Rows of a rotary table for the patches kept: (T, S, E), (B, T, K, 1) -> (B, 1, T*K, E)."""
    return table.expand(len(at), -1, -1, -1).gather(2, at.expand(-1, -1, -1, table.shape[-1])).flatten(1, 2)[:, None]


def _block_causal_mask(tubelets: int, tokens: int) -> Tensor:
    """Attention of each tubelet to itself and the older ones: (T*K, T*K), True = attend."""
    tubelet = torch.arange(tubelets).repeat_interleave(tokens)
    return tubelet[:, None] >= tubelet


def clip_tokens(encoder: StreamingEncoder, patches: Tensor, first: int) -> Tensor:
    """Compute the clip encoder's tokens of each tubelet n >= first, over the window that ends in it.

    Args:
        patches: (T, S, D).
        first: at least W-1, for every window to be full.

    Returns:
        (T - first, S, D)
    """
    table = rotary_tables(encoder.spec, encoder.window).query  # (W, S, E)
    rotation = Rotation(*(part.flatten(0, 1) for part in table))  # (W*S, E)
    steps = (StepIndices(n, encoder.window, recompute=encoder.window) for n in range(first, len(patches)))
    windows = (patches[step.oldest : step.newest + 1] for step in steps)
    return torch.stack([_attend_all(encoder, window, rotation)[-1] for window in windows])


def window_tokens(encoder: StreamingEncoder, window: Tensor) -> Tensor:
    """Compute the clip encoder's tokens of a whole window: (W, S, D) -> (W, S, D)."""
    table = rotary_tables(encoder.spec, len(window)).query  # (W, S, E)
    return _attend_all(encoder, window, Rotation(*(part.flatten(0, 1) for part in table)))


def _attend_all(encoder: StreamingEncoder, window: Tensor, rotation: Rotation) -> Tensor:
    """Every token attends to every other: (W, S, D) -> (W, S, D)."""
    x = window.flatten(0, 1)  # (W*S, D)
    for layer in encoder.layers:
        assert isinstance(layer, Layer)
        qkv = layer.attention.qkv(layer.norm1(x))  # (W*S, 3D)
        q, k, v = qkv.unflatten(-1, (3, encoder.spec.heads, -1)).permute(1, 2, 0, 3)  # (A, W*S, E) each
        q, k = rotate(q, rotation), rotate(k, rotation)
        attended = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]  # (A, W*S, E)
        x = _finish(layer, x, attended.transpose(0, 1).flatten(1))
    tokens: Tensor = encoder.norm(x)
    whole: Tensor = tokens.unflatten(0, window.shape[:2])
    return whole


def _finish(layer: Layer, x: Tensor, attended: Tensor) -> Tensor:
    """A layer's way from what its heads attended to: (..., D), (..., D) -> (..., D)."""
    x = x + layer.attention.proj(attended)
    result: Tensor = x + layer.fc2(F.gelu(layer.fc1(layer.norm2(x))))
    return result


def _attend_banded(qkv: Tensor, heads: int, table: Rotation) -> Tensor:
    """(T, S, 3D) -> (T, S, D)."""
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # (T, A, S, E) each
    attended = []
    for n in range(len(qkv)):
        step = StepIndices(n, window=len(table.cos), recompute=1)
        oldest, newest = step.positions(step.oldest), step.positions(step.newest)
        keys, values = (part[step.oldest : n + 1] for part in (k, v))  # (fill, A, S, E)
        keys = rotate(keys, Rotation(*(part[oldest : newest + 1, None] for part in table)))  # (fill, A, S, E)
        query = rotate(q[n], Rotation(*(part[newest] for part in table)))  # (A, S, E)
        keys, values = (part.transpose(0, 1).flatten(1, 2) for part in (keys, values))  # (A, fill*S, E)
        attended.append(F.scaled_dot_product_attention(query[None], keys[None], values[None])[0])  # (A, S, E)
    return torch.stack(attended).transpose(1, 2).flatten(2)  # (T, S, D)
