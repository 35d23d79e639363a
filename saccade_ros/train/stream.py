"""The cached step with lookback 1 over a whole clip at once, in a form that gradients flow through.

The step itself writes its ring in place and remembers nothing to differentiate. But each tubelet's keys and values are
computed once and never changed, so a clip's stream is one banded pass: tubelet n attends to n-W+1..n, the newest at
position min(n, W-1). While n < W that is a block-causal mask at absolute positions; later every query has its own
rotation of the same keys, so the pass goes tubelet by tubelet inside a layer and needs no mask at all.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade_ros.encoder.model import Layer, StreamingEncoder
from saccade_ros.encoder.rope import Rotation, rotary_tables, rotate


def stream_tokens(encoder: StreamingEncoder, patches: Tensor) -> Tensor:
    """What `step` would return as each tubelet's newest tokens, from an empty ring on: (T, S, D) -> (T, S, D)."""
    positions = rotary_tables(encoder.spec, encoder.window).query  # (W, S, E)
    x = patches  # (T, S, D)
    for layer in encoder.layers:
        assert isinstance(layer, Layer)
        x = x + layer.attention.proj(_attend(layer.attention.qkv(layer.norm1(x)), encoder.spec.heads, positions))
        x = x + layer.fc2(F.gelu(layer.fc1(layer.norm2(x))))
    tokens: Tensor = encoder.norm(x)
    return tokens


def _attend(qkv: Tensor, heads: int, positions: Rotation) -> Tensor:
    """(T, S, 3D) -> (T, S, D)."""
    window = len(positions.cos)
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # (T, A, S, E) each
    attended = []
    for n in range(len(qkv)):
        first, fill = max(0, n - window + 1), min(n + 1, window)
        keys = rotate(k[first : n + 1], Rotation(*(part[:fill, None] for part in positions)))  # (fill, A, S, E)
        query = rotate(q[n], Rotation(*(part[fill - 1] for part in positions)))  # (A, S, E)
        seen, values = (part.transpose(0, 1).flatten(1, 2) for part in (keys, v[first : n + 1]))  # (A, fill*S, E)
        attended.append(F.scaled_dot_product_attention(query[None], seen[None], values[None])[0])  # (A, S, E)
    return torch.stack(attended).transpose(1, 2).flatten(2)  # (T, S, D)
