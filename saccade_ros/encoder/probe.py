"""Attentive probe of the released video classifiers.

A few layers of attention over every token of the window, then one learned query that gathers them. transformers'
VJEPA2ForVideoClassification holds it beside the encoder.

The probe was trained on all tokens of a clip, so in a stream it sees those of the whole window, each tubelet's as
last computed. With recompute = window these are the clip encoder's, and the result is transformers' to 1e-5.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade_ros.encoder.checkpoint import PROBE_PREFIXES
from saccade_ros.encoder.spec import ModelSpec, integer
from saccade_ros.encoder.tensors import Floats, WeightsError, copy_tensors, read_safetensors, refuse_dead

_MLP_RATIO = 4  # transformers' default, which its pooler takes whatever mlp_ratio the encoder has
_MOST_LAYERS, _MOST_CLASSES = 64, 1_000_000


class ProbeLayer(nn.Module):
    """Attention layer of the probe. The last gathers by a query that is not normalised and has no projection."""

    def __init__(self, spec: ModelSpec, gathers: bool) -> None:
        super().__init__()
        self.heads = spec.heads
        self.norm1 = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.query, self.key, self.value = (nn.Linear(spec.width, spec.width) for _ in range(3))
        self.proj = nn.Identity() if gathers else nn.Linear(spec.width, spec.width)
        self.norm2 = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.fc1 = nn.Linear(spec.width, _MLP_RATIO * spec.width)
        self.fc2 = nn.Linear(_MLP_RATIO * spec.width, spec.width)

    def forward(self, x: Tensor, queries: Tensor | None = None) -> Tensor:
        """Attend with queries (M, D), x itself if there are none, to x (N, D) -> (M, D)."""
        tokens = self.norm1(x)
        residual, attending = (x, tokens) if queries is None else (queries, queries)
        projected = self.query(attending), self.key(tokens), self.value(tokens)
        q, k, v = (self._split(part) for part in projected)  # (1, A, M or N, E) each
        gathered = F.scaled_dot_product_attention(q, k, v)[0]  # (A, M, E)
        y: Tensor = residual + self.proj(gathered.transpose(0, 1).flatten(1))  # (M, D)
        mlp: Tensor = self.fc2(F.gelu(self.fc1(self.norm2(y))))
        return y + mlp

    def _split(self, x: Tensor) -> Tensor:
        split: Tensor = x.unflatten(-1, (self.heads, -1)).transpose(0, 1)[None]  # (1, A, N, E)
        return split


class AttentiveProbe(nn.Module):
    """Pooler and classifier of a window's tokens; `labels` names the classes."""

    def __init__(self, spec: ModelSpec, depth: int, labels: tuple[str, ...]) -> None:
        super().__init__()
        self.labels = labels
        self.query = nn.Parameter(torch.zeros(1, spec.width))
        self.layers = nn.ModuleList(ProbeLayer(spec, gathers=False) for _ in range(depth))
        self.gather = ProbeLayer(spec, gathers=True)
        self.classifier = nn.Linear(spec.width, len(labels))

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool the window's tokens: (N, D) -> (D,). Their order does not matter."""
        for layer in self.layers:
            tokens = layer(tokens)
        pooled: Tensor = self.gather(tokens, self.query)[0]
        return pooled


def load_probe(folder: Path, spec: ModelSpec, config: Mapping[str, Any]) -> AttentiveProbe:
    """Load the probe of a VJEPA2ForVideoClassification checkpoint, in fp32 on the CPU, strictly.

    Raises:
        WeightsError: the checkpoint has none, or not all of it.
    """
    named = dict(read_safetensors(folder, PROBE_PREFIXES))
    if not named:
        raise WeightsError(
            f"{folder}: the checkpoint has no probe (no tensor {' or '.join(PROBE_PREFIXES)}*): "
            "give a video-classification checkpoint, or set encoder.pooling newest"
        )
    depth = integer(folder.name, config, "num_pooler_layers", 3)
    if not 0 <= depth <= _MOST_LAYERS:
        raise WeightsError(f"{folder}: num_pooler_layers of config.json is {depth}, outside 0..{_MOST_LAYERS}")
    with torch.device("meta"):
        probe = AttentiveProbe(spec, depth, _labels(folder, config))
    probe = probe.to_empty(device="cpu").eval().requires_grad_(False)
    copy_tensors(folder, named.items(), _placements(probe))
    refuse_dead(folder, _placements(probe))
    return probe


def _labels(folder: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes; where there are none, transformers' own."""
    count = integer(folder.name, config, "num_labels", 2)
    named = config.get("id2label") or {str(i): f"LABEL_{i}" for i in range(min(count, _MOST_CLASSES))}
    if not isinstance(named, dict) or not named or set(named) != {str(i) for i in range(len(named))}:
        raise WeightsError(f"{folder}: id2label of config.json does not number its classes from 0")
    return tuple(str(named[str(i)]) for i in range(len(named)))


def _placements(probe: AttentiveProbe) -> Iterator[tuple[str, Floats]]:
    """Each tensor's name in transformers, and our parameter's memory."""
    yield "pooler.query_tokens", probe.query.data[None].numpy()
    layers = [(f"pooler.self_attention_layers.{i}", "self_attn", layer) for i, layer in enumerate(probe.layers)]
    for prefix, attention, layer in [*layers, ("pooler.cross_attention_layer", "cross_attn", probe.gather)]:
        assert isinstance(layer, ProbeLayer)
        parts: dict[str, nn.Module] = {"layer_norm1": layer.norm1, "layer_norm2": layer.norm2}
        parts |= {"mlp.fc1": layer.fc1, "mlp.fc2": layer.fc2, f"{attention}.q_proj": layer.query}
        parts |= {f"{attention}.k_proj": layer.key, f"{attention}.v_proj": layer.value}
        if isinstance(layer.proj, nn.Linear):
            parts[f"{attention}.out_proj"] = layer.proj
        for name, module in parts.items():
            for kind in ("weight", "bias"):
                yield f"{prefix}.{name}.{kind}", getattr(module, kind).data.numpy()
    yield "classifier.weight", probe.classifier.weight.data.numpy()
    yield "classifier.bias", probe.classifier.bias.data.numpy()
