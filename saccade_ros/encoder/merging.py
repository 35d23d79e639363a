"""Token merging: after a layer's attention, tokens with similar keys become one (ToMe, Bolya et al. 2023).

    attention  →  match, merge  →  MLP          S tokens enter the first layer, fewer leave each one

Within the new tubelet only, every second token is a candidate: it may join the one of the others whose key is most
similar to its own (cosine of un-rotated keys, mean over heads). Each layer merges a fixed number of them, the most
similar ones, so that shapes are static and every layer's ring has its own number of tokens (ModelSpec.token_counts).

A merged token is the mean of its patches, so far as it can stand for them all: it keeps their number, its size, which
attention adds to its score as log(size) and pooling weights it by; and their centroid, which later layers rotate by.
Tokens keep the order of the grid, so that in the next layer neighbours are again candidates for each other.

Sources: arXiv:2210.09461 (matching, sizes); the centroid is ours, as positions of this encoder are not learned but
computed, from any row and column (positions.py).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from saccade_ros.encoder.positions import patch_positions
from saccade_ros.encoder.ring import Block
from saccade_ros.encoder.spec import ModelSpec

Placing = Callable[[Tensor, Tensor], Tensor]  # centroids (n, 2), the grid's places (S, 2) -> places (n, 2)


class Merging(Protocol):
    """Merging of a step's tokens.

    Attributes:
        merge: tokens merged by each layer.
        counts: tokens of a tubelet that enter each layer, and that leave the last one: (L+1,).
    """

    merge: int
    counts: tuple[int, ...]

    def begin(self, block: Block) -> None:
        """Begin a step: the block's tokens are patches."""
        ...

    def rows(self, layer: int, block: Block) -> int:
        """Count the rows of a block that enter a layer."""
        ...

    def __call__(
        self, layer: int, x: Tensor, update: Tensor, qkv: Tensor, blocks: Sequence[Block]
    ) -> tuple[Tensor, Tensor | None]:
        """Merge the tokens of each block, between a layer's attention and its MLP.

        Args:
            x, update: residual stream and attention's output, still to be added: (N, D) each.
            qkv: the layer's projections, (N, 3, A, E).

        Returns:
            The same of the tokens that are left; None if the update is added already.
        """
        ...

    def mean(self, tokens: Tensor, block: Block) -> Tensor:
        """Pool whole tubelets: (m, tokens, D) -> (m, D)."""
        ...


class NoMerging:
    """Every patch stays a token."""

    merge = 0

    def __init__(self, spec: ModelSpec) -> None:
        self.counts = spec.token_counts(0)

    def begin(self, block: Block) -> None:
        """See Merging."""

    def rows(self, layer: int, block: Block) -> int:
        """See Merging."""
        return block.rows

    def __call__(
        self, layer: int, x: Tensor, update: Tensor, qkv: Tensor, blocks: Sequence[Block]
    ) -> tuple[Tensor, Tensor | None]:
        """See Merging."""
        return x, update

    def mean(self, tokens: Tensor, block: Block) -> Tensor:
        """See Merging."""
        return tokens.mean(dim=1)


def at_centroids(centroids: Tensor, grid: Tensor) -> Tensor:
    """Place each token at the centroid of its patches."""
    return centroids


class TokenMerging:
    """Merging of `merge` tokens by each layer.

    Args:
        placing: places of the tokens left. A study compares others with the centroid; nothing else has a use for them.
    """

    def __init__(self, spec: ModelSpec, merge: int, placing: Placing = at_centroids) -> None:
        self.merge, self.counts, self._placing = merge, spec.token_counts(merge), placing
        self._patches = spec.tokens
        self._grid = torch.from_numpy(np.stack(patch_positions(spec, "float32"), axis=1))  # (S, 2)

    def begin(self, block: Block) -> None:
        """See Merging."""
        device = block.ring.means.device
        self._grid = self._grid.to(device)  # once
        block.places, block.sizes = self._grid, torch.ones(self._patches, device=device)

    def rows(self, layer: int, block: Block) -> int:
        """See Merging."""
        return self.counts[layer]

    def __call__(
        self, layer: int, x: Tensor, update: Tensor, qkv: Tensor, blocks: Sequence[Block]
    ) -> tuple[Tensor, Tensor | None]:
        """See Merging."""
        merged, keys = self.counts[layer] - self.counts[layer + 1], qkv[:, 1].float().mean(dim=1)  # (N, E)
        by_stream = zip((x + update).split(self.counts[layer]), keys.split(self.counts[layer]), blocks, strict=True)
        return torch.cat([self._merge(part, match(key, merged), block) for part, key, block in by_stream]), None

    def _merge(self, x: Tensor, matching: "Matching", block: Block) -> Tensor:
        """Merge a block's tokens, (n, D) -> (n-r, D), and with them their sizes and places."""
        merged, centroids, block.sizes = merge_tokens(x, block.places, block.sizes, matching)
        block.places = self._placing(centroids, self._grid)
        return merged

    def mean(self, tokens: Tensor, block: Block) -> Tensor:
        """See Merging."""
        weighted: Tensor = (block.sizes / self._patches) @ tokens.float()  # (m, D)
        return weighted.to(tokens.dtype)


class Matching(NamedTuple):
    """Places in a layer's n tokens.

    Attributes:
        source_idx: tokens that are merged, most similar pair first, (r,).
        target_idx: token that each of them joins, (r,).
        kept_idx: tokens left, ascending, (n-r,).
    """

    source_idx: Tensor
    target_idx: Tensor
    kept_idx: Tensor


def match(keys: Tensor, count: int) -> Matching:
    """Match the `count` tokens of even place whose keys (n, E) are most similar to that of one of odd place.

    Of equal pairs the first ones merge, so that every runtime chooses the same.
    """
    directions = F.normalize(keys, dim=1)
    similarity, partner = (directions[::2] @ directions[1::2].T).max(dim=1)  # (ceil(n/2),) each
    order = similarity.argsort(descending=True, stable=True)
    source_idx, target_idx = 2 * order[:count], 2 * partner[order[:count]] + 1  # (r,) each
    odd_idx = torch.arange(1, len(keys), 2, device=keys.device)  # (floor(n/2),)
    return Matching(source_idx, target_idx, torch.cat([2 * order[count:], odd_idx]).sort().values)


def merge_tokens(tokens: Tensor, places: Tensor, sizes: Tensor, matching: Matching) -> tuple[Tensor, Tensor, Tensor]:
    """Merge tokens (n, D) at places (n, 2) of sizes (n,): means weighted by size, of as many rows less, and new sizes.

    The sums are a product with zeros and ones: adding at indices has no fixed order on a GPU.
    """
    parts = torch.cat([tokens, places, torch.ones_like(sizes)[:, None]], dim=1) * sizes[:, None]  # (n, D+3)
    joins = torch.arange(len(sizes), device=sizes.device)[:, None] == matching.target_idx  # (n, r)
    sums = torch.addmm(parts, joins.to(parts.dtype), parts[matching.source_idx])[matching.kept_idx]  # (n-r, D+3)
    means = sums[:, :-1] / sums[:, -1:]  # (n-r, D+2)
    return means[:, :-2], means[:, -2:], sums[:, -1]


def choose_merging(spec: ModelSpec, merge: int, recompute: int) -> Merging:
    """Choose the merging of `merge` tokens by each layer; none if 0.

    Raises:
        ValueError: merge is negative, or steps recompute more than the newest tubelet.
    """
    spec.check_merge(merge, recompute)
    return TokenMerging(spec, merge) if merge else NoMerging(spec)
