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
    return torch.stack([_newest_of(encoder, window, rotation) for window in windows])


def _newest_of(encoder: StreamingEncoder, window: Tensor, rotation: Rotation) -> Tensor:
    """Every token attends to every other; the last tubelet's come out: (W, S, D) -> (S, D)."""
    x = window.flatten(0, 1)  # (W*S, D)
    for layer in encoder.layers:
        assert isinstance(layer, Layer)
        qkv = layer.attention.qkv(layer.norm1(x))  # (W*S, 3D)
        q, k, v = qkv.unflatten(-1, (3, encoder.spec.heads, -1)).permute(1, 2, 0, 3)  # (A, W*S, E) each
        q, k = rotate(q, rotation), rotate(k, rotation)
        attended = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]  # (A, W*S, E)
        x = _finish(layer, x, attended.transpose(0, 1).flatten(1))
    tokens: Tensor = encoder.norm(x[-len(window[0]) :])
    return tokens


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
