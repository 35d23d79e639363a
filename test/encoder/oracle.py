"""Slow, cache-free definitions of what the cached encoder must compute, built on transformers' own modules."""

import torch
from torch import Tensor
from transformers import VJEPA2Model


def embed(model: VJEPA2Model, clip: Tensor) -> Tensor:
    """(T, 2, 3, H, W) -> patch embeddings (T, S, D)."""
    frames = clip.flatten(0, 1)[None]  # (1, 2T, 3, H, W)
    return model.encoder.embeddings(frames)[0].unflatten(0, (len(clip), -1))  # (T, S, D)


def clip_encoder(model: VJEPA2Model, clip: Tensor) -> Tensor:
    """transformers' bidirectional encoder over a clip (T, 2, 3, H, W): tokens (T, S, D)."""
    frames = clip.flatten(0, 1)[None]
    out = model(frames, skip_predictor=True).last_hidden_state[0]
    return out.unflatten(0, (len(clip), -1))


def masked_forward(model: VJEPA2Model, clip: Tensor) -> Tensor:
    """One pass at transformers' positions in which a tubelet's tokens see its own and earlier ones: (T, S, D)."""
    x = embed(model, clip)
    tubelets, tokens, _ = x.shape
    time = torch.arange(tubelets).repeat_interleave(tokens)
    mask = time[:, None] >= time[None, :]  # (T*S, T*S), True = use
    x = x.flatten(0, 1)[None]
    for layer in model.encoder.layer:
        x = x + _attention(layer.attention, layer.norm1(x), layer.norm1(x), time, time, mask)
        x = x + layer.mlp(layer.norm2(x))
    return model.encoder.layernorm(x)[0].unflatten(0, (tubelets, tokens))


def banded_stream(model: VJEPA2Model, clip: Tensor, window: int, recompute: int = 1, absolute: bool = False) -> Tensor:
    """The stream, recomputed from stored hidden states with no key or value ever kept: newest tokens (T, S, D).

    Each layer keeps every tubelet's latest input. Step n recomputes tubelets n-r+1..n; each attends to the inputs of
    tubelets n-W+1..n at window positions (or, `absolute`, at the stream's age, as the public library does).
    """
    patches = embed(model, clip)
    tokens = patches.shape[1]
    stored: list[dict[int, Tensor]] = [{} for _ in model.encoder.layer]
    newest = []
    for n in range(len(clip)):
        seen = list(range(max(0, n - window + 1), n + 1))
        block = list(range(max(0, n - recompute + 1), n + 1))
        newest_position = n if absolute else min(n, window - 1)
        position = {t: newest_position - (n - t) for t in seen}
        x = patches[block]  # (m, S, D)
        for inputs, layer in zip(stored, model.encoder.layer, strict=True):
            inputs.update(zip(block, x, strict=True))
            context = torch.cat([inputs[t] for t in seen])[None]
            q_time = torch.tensor([position[t] for t in block]).repeat_interleave(tokens)
            k_time = torch.tensor([position[t] for t in seen]).repeat_interleave(tokens)
            flat = x.flatten(0, 1)[None]
            flat = flat + _attention(layer.attention, layer.norm1(flat), layer.norm1(context), q_time, k_time, None)
            flat = flat + layer.mlp(layer.norm2(flat))
            x = flat[0].unflatten(0, (len(block), tokens))
        newest.append(model.encoder.layernorm(x[-1]))
    return torch.stack(newest)


def sparse_stream(model: VJEPA2Model, clip: Tensor, window: int, plans: list[Tensor | None]) -> Tensor:
    """The stream of which some tubelets are computed in part, from stored hidden states: outputs (T, S, D).

    The others of a tubelet's tokens are those of the tubelet before, in each layer and in the output.

    Args:
        plans: of each tubelet, the tokens to compute, (M,); None computes all.
    """
    patches = embed(model, clip)
    tokens = patches.shape[1]
    stored: list[dict[int, Tensor]] = [{} for _ in model.encoder.layer]
    outputs: list[Tensor] = []
    for n, plan in enumerate(plans):
        chosen = torch.arange(tokens) if plan is None else plan
        seen = list(range(max(0, n - window + 1), n + 1))
        newest_position = min(n, window - 1)
        k_time = torch.tensor([newest_position - (n - t) for t in seen]).repeat_interleave(tokens)
        q_time = torch.full((len(chosen),), newest_position)
        x = patches[n][chosen][None]  # (1, M, D)
        for inputs, layer in zip(stored, model.encoder.layer, strict=True):
            inputs[n] = _with_rows(None if plan is None else inputs[n - 1], chosen, x[0])
            context = torch.cat([inputs[t] for t in seen])[None]
            queries, keys = layer.norm1(x), layer.norm1(context)
            x = x + _attention(layer.attention, queries, keys, q_time, k_time, None, q_cell=chosen)
            x = x + layer.mlp(layer.norm2(x))
        outputs.append(_with_rows(None if plan is None else outputs[-1], chosen, model.encoder.layernorm(x[0])))
    return torch.stack(outputs)


def _with_rows(before: Tensor | None, chosen: Tensor, rows: Tensor) -> Tensor:
    """A copy of what was before, with new rows."""
    whole = torch.empty_like(rows) if before is None else before.clone()
    whole[chosen] = rows
    return whole


def _attention(
    attention: torch.nn.Module,
    queries: Tensor,
    keys: Tensor,
    q_time: Tensor,
    k_time: Tensor,
    mask: Tensor | None,
    q_cell: Tensor | None = None,
) -> Tensor:
    """transformers' projections and rotation; softmax written out. (1, N, D), (1, M, D) -> (1, N, D).

    Args:
        q_cell: place in its tubelet of each query; None takes whole tubelets.
    """

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)  # (1, A, N, E)

    q = attention.apply_rotary_embeddings(heads(attention.query(queries)), _ids(attention, q_time, q_cell))
    k = attention.apply_rotary_embeddings(heads(attention.key(keys)), _ids(attention, k_time))
    scores = q @ k.transpose(-1, -2) * attention.scaling
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    out = scores.softmax(-1) @ heads(attention.value(keys))
    return attention.proj(out.transpose(1, 2).flatten(2))


def _ids(attention: torch.nn.Module, time: Tensor, cell: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    if cell is None:
        cell = torch.arange(attention.grid_size**2).repeat(len(time) // attention.grid_size**2)
    return time, cell // attention.grid_size, cell % attention.grid_size
