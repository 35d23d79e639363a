"""Causal adapter: low-rank changes (LoRA, Hu et al. 2021) of the attention's linear layers.

`saccade train causal` trains it so that the cached step gives what the bidirectional clip encoder would. Merged into
the weights at load, it costs nothing at run time.

File: safetensors. `layers.<i>.attention.<qkv|proj>.down` (rank, D) and `.up` (out, rank), and a header that names
the weights it was trained on: on any others it would be noise, so it is refused there.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from saccade_ros.encoder.model import Layer, StreamingEncoder
from saccade_ros.encoder.released import stored_tensor
from saccade_ros.encoder.tensors import WeightsError, copy_tensors
from saccade_ros.storage import whole_path

FORMAT = "saccade-causal-adapter-1"
TARGETS = ("qkv", "proj")
_MOST_RANK = 16384  # as wide as an encoder may be


class LowRank(nn.Module):
    """Low-rank change of a linear layer's weight, W + (alpha / rank) up @ down (torch.nn.utils.parametrize).

    `up` starts at zero, so an untrained adapter changes nothing.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.scale = alpha / rank
        down = torch.randn(rank, linear.in_features, generator=generator) / math.sqrt(linear.in_features)
        self.down = nn.Parameter(down)  # (rank, in)
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))  # (out, rank)

    def forward(self, weight: Tensor) -> Tensor:
        """Change the weight: (out, in) -> (out, in)."""
        return weight + self.scale * (self.up @ self.down)


def target_layers(encoder: StreamingEncoder) -> dict[str, nn.Linear]:
    """Find the linear layers that an adapter changes, by name."""
    found: dict[str, nn.Linear] = {}
    for i, layer in enumerate(encoder.layers):
        assert isinstance(layer, Layer)
        found.update({f"layers.{i}.attention.{name}": getattr(layer.attention, name) for name in TARGETS})
    return found


@dataclass(frozen=True)
class Adapter:
    """Adapter apart from any encoder.

    Attributes:
        base_sha256: fingerprint of the weights it belongs to.
        tensors: `<layer>.down` and `<layer>.up`, by layer name.
        trained: how it was trained, for people: model, window, clips, steps, seed.
    """

    base_sha256: str
    rank: int
    alpha: float
    tensors: Mapping[str, Tensor]
    trained: Mapping[str, Any] = field(default_factory=dict)

    def save(self, file: Path) -> None:
        """Write the adapter's file, whole or not at all."""
        header = {"format": FORMAT, "base_sha256": self.base_sha256, "rank": self.rank, "alpha": self.alpha}
        header |= {"targets": list(TARGETS), "trained": dict(self.trained)}
        with whole_path(file) as path:
            save_file(dict(self.tensors), path, metadata={"adapter": json.dumps(header, sort_keys=True)})

    def merge_into(self, encoder: StreamingEncoder, base_sha256: str, file: Path) -> None:
        """Change the encoder's weights for good.

        Args:
            base_sha256: fingerprint of the encoder as it is.
            file: where the adapter is from, for messages.

        Raises:
            WeightsError: the adapter belongs to other weights, or its tensors do not fit.
        """
        if base_sha256 != self.base_sha256:
            raise WeightsError(
                f"{file}: the adapter was trained on weights {self.base_sha256[:12]}, encoder.model has "
                f"{base_sha256[:12]}: give the checkpoint it belongs to, or train another adapter"
            )
        if self.rank > encoder.spec.width:
            raise WeightsError(
                f"{file}: the adapter's rank {self.rank} exceeds the encoder's width {encoder.spec.width}"
            )
        changes = {name: LowRank(linear, self.rank, self.alpha) for name, linear in target_layers(encoder).items()}
        parts = [(f"{name}.{part}", getattr(c, part)) for name, c in changes.items() for part in ("down", "up")]
        stored = ((name, stored_tensor(tensor)) for name, tensor in self.tensors.items())
        copy_tensors(file, stored, ((name, parameter.data.numpy()) for name, parameter in parts))
        with torch.no_grad():
            for name, linear in target_layers(encoder).items():
                linear.weight.copy_(changes[name](linear.weight))
                if not linear.weight.isfinite().all():
                    raise WeightsError(f"{file}: the adapter makes weights of {name} NaN or infinite; train it again")


def load_adapter(file: Path) -> Adapter:
    """Read an adapter file.

    Raises:
        WeightsError: it cannot be read, is another kind of file, or its header is not one that `save` writes.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            header = json.loads((opened.metadata() or {}).get("adapter", "{}"))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError, ValueError, RecursionError) as broken:
        raise WeightsError(f"encoder.adapter {file}: cannot be read ({broken}); give what `saccade train` wrote") from (
            broken
        )
    if not isinstance(header, dict) or header.get("format") != FORMAT or header.get("targets") != list(TARGETS):
        raise WeightsError(f"encoder.adapter {file}: is no {FORMAT}; give a file that `saccade train causal` wrote")
    for name, (is_good, expected) in _HEADER.items():
        if not is_good(header.get(name)):
            raise WeightsError(
                f"encoder.adapter {file}: its header has {name} {header.get(name)!r:.60}, not {expected}: it was "
                "changed or cut; give the file as `saccade train causal` wrote it"
            )
    trained = header.get("trained") or {}
    return Adapter(header["base_sha256"], header["rank"], float(header["alpha"]), tensors, trained)


_HEADER: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "base_sha256": (lambda v: isinstance(v, str) and bool(re.fullmatch("[0-9a-f]{64}", v)), "a SHA-256 in hex"),
    "rank": (lambda v: type(v) is int and 1 <= v <= _MOST_RANK, f"a whole number from 1 to {_MOST_RANK}"),
    "alpha": (lambda v: type(v) in (int, float) and 0 < abs(v) < 1e6, "a finite number other than 0"),
    "trained": (lambda v: v is None or isinstance(v, dict), "an object"),
}
