"""Student of a frozen teacher: our causal encoder, what is attached to it in training only, and its losses.

After SALT (Apple, 2025, "Rethinking JEPA"), the teacher is frozen and its targets are cached; unlike there, the student
is causal and small. With tube masking part of the patches is not encoded at all, which costs that much less, and a
predictor (Bardes et al. 2024, V-JEPA) fills them in from the rest.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade_ros.encoder.model import StreamingEncoder, patch_values
from saccade_ros.encoder.spec import ModelSpec
from saccade_ros.encoder.weights import fill_randomly
from saccade_ros.knobs import Settings, knob
from saccade_ros.train.cache import TargetBatch
from saccade_ros.train.stream import block_tokens

PREDICTOR_WIDTH, PREDICTOR_DEPTH, PREDICTOR_HEADS = 96, 2, 3


@dataclass(frozen=True)
class LossWeights(Settings):
    """Weights of the parts of the loss."""

    tokens_weight: float = knob(
        1.0, "Weight of 1 - cosine of the tokens' predictions to the dense targets.", at_least=0.0
    )
    pooled_weight: float = knob(
        1.0, "Weight of 1 - cosine of the embeddings' predictions to the pooled targets.", at_least=0.0
    )
    relational_weight: float = knob(1.0, "Weight of 1 - CKA of the embeddings to the pooled targets.", at_least=0.0)
    flow_weight: float = knob(0.3, "Weight of the error of the tokens' predictions of motion.", at_least=0.0)
    hidden_weight: float = knob(0.5, "Weight of 1 - cosine of what the predictor says of hidden patches.", at_least=0.0)


class Targets(NamedTuple):
    """Targets of B clips of T tubelets, on the student's grid, in fp32.

    Attributes:
        pooled: (B, T, P).
        dense: (B, T, S, P).
        flow: (B, T, S, 2), in units of a patch, squashed to -1 to 1.
    """

    pooled: Tensor
    dense: Tensor
    flow: Tensor


def make_targets(batch: TargetBatch, spec: ModelSpec) -> Targets:
    """Bring the cached targets onto the student's grid."""
    dense = _on_grid(torch.from_numpy(batch.dense.astype(np.float32)), spec.grid)
    flow = _on_grid(torch.from_numpy(batch.flow.astype(np.float32)), spec.grid) / spec.patch_size
    return Targets(torch.from_numpy(batch.pooled.astype(np.float32)), dense, torch.tanh(4 * flow))


def _on_grid(features: Tensor, grid: int) -> Tensor:
    """(B, T, g, g, P) -> (B, T, S, P)."""
    if features.shape[2] != grid:
        maps = features.flatten(0, 1).permute(0, 3, 1, 2)  # (B*T, P, g, g)
        maps = F.interpolate(maps, (grid, grid), mode="bilinear", align_corners=False, antialias=True)
        features = maps.permute(0, 2, 3, 1).unflatten(0, features.shape[:2])
    return features.flatten(2, 3)


class Student(nn.Module):
    """Encoder in training, with the layers that lead from its tokens to the targets.

    Args:
        targets_width: channels of the targets (P).
        hidden_fraction: patches that are not encoded.
    """

    def __init__(self, spec: ModelSpec, tubelets: int, targets_width: int, hidden_fraction: float, seed: int) -> None:
        super().__init__()
        self.encoder = StreamingEncoder(spec, tubelets)
        self.to_dense, self.to_flow = nn.Linear(spec.width, targets_width), nn.Linear(spec.width, 2)
        self.to_pooled = nn.Linear(spec.width, targets_width)
        self._kept = spec.tokens - int(hidden_fraction * spec.tokens)
        if self._kept < spec.tokens:
            self.predictor = Predictor(spec, tubelets, targets_width)
        fill_randomly(self, seed)

    def forward(
        self, pixels: Tensor, targets: Targets, causal: bool, weights: LossWeights, random: torch.Generator
    ) -> dict[str, Tensor]:
        """Compute the parts of the loss, weighted, by name.

        Args:
            pixels: normalised, (B, T, 2, 3, H, W).
            causal: see block_tokens.
            random: chooses the patches that are hidden.
        """
        spec = self.encoder.spec
        patches = self.encoder.patch_embed(patch_values(pixels, spec.patch_size))  # (B, T, S, D)
        order = torch.rand(len(patches), spec.tokens, generator=random).argsort(dim=1)  # (B, S)
        kept, hidden = order[:, : self._kept], order[:, self._kept :]
        tokens = block_tokens(self.encoder, patches, causal, kept if hidden.shape[1] else None)  # (B, T, K, D)
        seen = targets if not hidden.shape[1] else Targets(targets.pooled, *(_at(t, kept) for t in targets[1:]))
        losses = self._losses(tokens, seen)
        if hidden.shape[1]:
            predicted = self.predictor(tokens, kept, hidden, causal)
            losses["hidden"] = cosine_loss(predicted, _at(targets.dense, hidden))
        return {name: getattr(weights, f"{name}_weight") * loss for name, loss in losses.items()}

    def _losses(self, tokens: Tensor, targets: Targets) -> dict[str, Tensor]:
        embeddings = tokens.mean(dim=2)  # (B, T, D)
        return {
            "tokens": cosine_loss(self.to_dense(tokens), targets.dense),
            "pooled": cosine_loss(self.to_pooled(embeddings), targets.pooled),
            "relational": 1 - cka(embeddings.flatten(0, 1), targets.pooled.flatten(0, 1)),
            "flow": F.smooth_l1_loss(self.to_flow(tokens), targets.flow, beta=0.1),
        }


class Predictor(nn.Module):
    """Small transformer that predicts the targets of hidden patches from the tokens of the others.

    Its layers are those of an encoder, whose patch embedding is not used.
    """

    def __init__(self, spec: ModelSpec, tubelets: int, targets_width: int) -> None:
        super().__init__()
        own = ModelSpec("predictor", PREDICTOR_WIDTH, PREDICTOR_DEPTH, PREDICTOR_HEADS, spec.input_size)
        self._tokens = spec.tokens
        self.enter, self.layers = nn.Linear(spec.width, own.width), StreamingEncoder(own, tubelets)
        self.leave = nn.Linear(own.width, targets_width)
        self.hidden = nn.Parameter(torch.zeros(own.width))

    def forward(self, tokens: Tensor, kept: Tensor, hidden: Tensor, causal: bool) -> Tensor:
        """(B, T, K, D) -> the predictions of the hidden patches, (B, T, S - K, P)."""
        entered = self.enter(tokens)  # (B, T, K, d)
        whole = self.hidden.expand(*entered.shape[:2], self._tokens, -1)  # (B, T, S, d)
        at = kept[:, None, :, None].expand_as(entered)
        filled = block_tokens(self.layers, whole.scatter(2, at, entered), causal)  # (B, T, S, d)
        predicted: Tensor = self.leave(_at(filled, hidden))
        return predicted


def _at(features: Tensor, patch_idx: Tensor) -> Tensor:
    """Select patches by clip: (B, T, S, C), (B, K) -> (B, T, K, C)."""
    at = patch_idx[:, None, :, None].expand(-1, features.shape[1], -1, features.shape[-1])
    return features.gather(2, at)


def cosine_loss(predicted: Tensor, targets: Tensor) -> Tensor:
    """Compute the mean of 1 - cosine: (..., P) each -> ()."""
    return 1 - F.cosine_similarity(predicted, targets, dim=-1).mean()


def cka(ours: Tensor, theirs: Tensor) -> Tensor:
    """Compute linear centred kernel alignment (Kornblith et al. 2019) of directions: (N, D), (N, P) -> ().

    Both sets are centred and scaled to length 1 first, so that what is aligned are the centred cosines of all pairs.
    """
    grams = []
    for vectors in (ours, theirs):
        directions = F.normalize(vectors - vectors.mean(dim=0), dim=-1)
        gram = directions @ directions.T  # (N, N)
        grams.append(gram - gram.mean(dim=0) - gram.mean(dim=1, keepdim=True) + gram.mean())
    return F.cosine_similarity(grams[0].flatten(), grams[1].flatten(), dim=0)
