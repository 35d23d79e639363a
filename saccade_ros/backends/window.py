"""Host side of an exported step, in NumPy: the sizes of its cache, and the rotations of each step's queries and keys.

The torch ring rotates the depth part of every cached key again at each read (encoder/ring.py). A graph that did so
would copy its whole cache at each step. Here a key is written once and never changed: beside its depth part rotated to
the tubelet's number t, u = R(t) k, it keeps the derivative of that rotation, v = R'(t) k. With a shift of s positions

    R(t + s) k = cos(s a) u + sin(s a) v      for each channel's own angle a, so for both layouts of positions.py

and the shift, one number for all keys of a step, is multiplied into the queries. A key that a sparse step keeps becomes
the next tubelet's in the same way, with s = 1: u' = cos(a) u + sin(a) v, v' = cos(a) v - sin(a) u. A key is E + rope
width channels, plus one that says whether its slot is valid (a query has 1 there), rounded up to 8:

    [ u, height and width rotated, rest | v | validity | 0 .. ]

With token merging the graph knows where its tokens are, so that tables have one row, of depth alone, for all of them;
and the validity channel of a key says how many patches it stands for, by the logarithm that attention adds.
"""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from saccade_ros.encoder.areas import Areas
from saccade_ros.encoder.positions import Indices, StepIndices, depth_angles, head_parts, patch_angles
from saccade_ros.encoder.spec import ModelSpec

Contract = Literal["host", "scatter"]  # who writes the cache: the caller, or the graph in place (export/graph.py)
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

ROWS = "M"  # name, in graphs, of the number of tokens computed where it is known at run time only
INVALID = -30000.0  # of a key's validity channel: its softmax weight is exactly 0, and fp16 holds it


@dataclass(frozen=True)
class StepShape:
    """Sizes of an exported step: all static but the number of tokens that a sparse step computes.

    Attributes:
        spec: sizes of the encoder.
        window: slots of the cache (W).
        recompute: newest tubelets that each step recomputes (r).
        batch: streams per call (B).
        merge: tokens that each layer merges; every layer then has its own number of them, and no step is sparse.
        area_rows, area_columns, area_layers: areas that the first layers attend by (encoder/areas.py), G in all.

    Raises:
        ValueError: window, recompute, merge or areas do not suit the encoder, or merge and areas each other.
    """

    spec: ModelSpec
    window: int
    recompute: int = 1
    batch: int = 1
    merge: int = 0
    area_rows: int = 1
    area_columns: int = 1
    area_layers: int = 0

    def __post_init__(self) -> None:
        self.spec.check_window(self.window, self.recompute)
        self.spec.check_merge(self.merge, self.recompute)
        if self.areas.are_on and self.merge:
            raise ValueError(f"merge {self.merge} with {self.areas.name}: merged tokens have no area; turn one off")

    @cached_property
    def areas(self) -> Areas:
        """Areas of the step: the order of the rows that it computes of a tubelet, and of the tokens in a slot."""
        return Areas.of(self.spec, self.area_rows, self.area_columns, self.area_layers)

    @property
    def sizes(self) -> dict[str, int]:
        """The arguments that this was made of but the spec, by name."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "spec"}

    @property
    def rows(self) -> int:
        """Tokens that a dense step computes per stream, r*S."""
        return self.recompute * self.spec.tokens

    @property
    def table_rows(self) -> int:
        """Rows of a dense step's tables per stream: one for each token, or one for all where tokens are merged."""
        return 1 if self.merge else self.rows

    @property
    def counts(self) -> tuple[int, ...]:
        """Tokens of a tubelet that each layer attends with, and that the last one leaves: (L+1,)."""
        return self.spec.token_counts(self.merge)

    @property
    def can_be_sparse(self) -> bool:
        """True if a step can compute some of a tubelet's tokens only.

        With one slot it cannot: a step that failed would leave its trace in the slot that the next one starts from.
        """
        return self.recompute == 1 and self.window > 1 and not self.merge

    @property
    def validity(self) -> int:
        """Channel of a key that says that its slot is valid."""
        return self.spec.head_width + self.spec.rope_width

    @property
    def derivative(self) -> slice:
        """Channels of a key that hold the derivative of its depth part (v)."""
        return slice(self.spec.head_width, self.validity)

    @property
    def key_width(self) -> int:
        """Channels of a cached key (K): see the module's head."""
        return -(-(self.validity + 1) // 8) * 8

    @property
    def scale(self) -> float:
        """Factor of attention scores; multiplied into the queries."""
        return float(self.spec.head_width**-0.5)

    def keys(self, layer: int) -> tuple[int, int, int, int]:
        """Shape of a layer's cached keys: (B, A, W*S, K), S the tokens that it attends with."""
        return self.batch, self.spec.heads, self.window * self.counts[layer], self.key_width

    def values(self, layer: int) -> tuple[int, int, int, int]:
        """Shape of a layer's cached values: (B, A, W*S, E)."""
        return *self.keys(layer)[:3], self.spec.head_width

    def cache_bytes(self, bytes_per_value: int) -> int:
        """Memory of one stream's cache: keys and values of all layers; patches and tokens of the block
        and pooled outputs, in fp32.
        """
        spec, counts = self.spec, self.counts
        kv = sum(counts[:-1]) * spec.heads * self.window * (self.key_width + spec.head_width)
        singles = self.rows + self.recompute * counts[-1] + self.window
        return kv * bytes_per_value + 4 * singles * spec.width


@dataclass(frozen=True)
class StepTables:
    """Inputs of one stream's step that depend on how many tubelets came before, and on the M tokens it computes.

    Attributes:
        slots: slot of each tubelet of the block, oldest first: (r,) int64.
        previous_slot: slot of the tubelet before the newest one.
        token_idx: token of each row of a tubelet, in area order: (M / r,).
        area_counts: rows of a tubelet in each area: (G,) int64.
        select: of each place j in a slot, j where a sparse step keeps the previous tubelet's key and value, else S +
            the row among the computed ones: (S,) int64.
        query_cos, query_sin, key_cos, key_sin: factors of a row's channels, and of their pair partners: (M, K), M = r*S
            in a dense step.
        key_offset: INVALID in the validity channel of rows that stand for no tubelet (young streams): (M, K).
        size: tubelets of the block that exist (m), 1..r; the newest ones.
    """

    slots: Indices
    previous_slot: int
    token_idx: Indices
    area_counts: Indices
    select: Indices
    query_cos: Floats
    query_sin: Floats
    key_cos: Floats
    key_sin: Floats
    key_offset: Floats
    size: int

    def rows_of(self, tubelets: Floats) -> Floats:
        """Pick the rows that the step computes of its block's tubelets: (r, S, D) -> (M, D)."""
        rows: Floats = tubelets[:, self.token_idx].reshape(-1, tubelets.shape[-1])  # (M, D)
        return rows


class WindowTables:
    """Maker of the StepTables of any step of a stream. Angles are float64: a stream may run for years."""

    def __init__(self, shape: StepShape) -> None:
        self.shape = shape
        self._depth = head_parts(shape.spec).depth
        self._sign = depth_angles(shape.spec, np.arange(1), "float64").sign  # (d,)
        angle, sign = patch_angles(shape.spec, "float64")  # (S, E), (E,)
        if shape.merge:
            angle = np.zeros_like(angle[:1])  # (1, E): the graph rotates by height and width
        sizes = 2, len(angle), shape.key_width
        self._cos, self._sin = np.zeros(sizes, np.float32)  # (S, K) each: height and width rotated
        self._cos[:, : shape.spec.head_width] = np.cos(angle)
        self._sin[:, : shape.spec.head_width] = np.sin(angle) * sign

    def at(self, count: int, token_idx: Indices | None = None) -> StepTables:
        """Make the tables of the step that encodes tubelet number `count` of a stream.

        Args:
            token_idx: tokens of a sparse step, (M,) ascending; None computes all.
        """
        shape, step = self.shape, StepIndices(count, self.shape.window, self.shape.recompute)
        tokens = shape.areas.token_idx if token_idx is None else shape.areas.arrange(token_idx)  # (S,) or (M,)
        row_idx = np.arange(1) if shape.merge else tokens  # of the tables, (M / r,)
        block_idx = np.where(step.block_mask, step.block_idx, 0)  # (r,); rows of no tubelet only have to be finite
        query_cos, query_sin = self._query_factors(step.positions(block_idx), step.shift, row_idx)  # (M, K)
        key_cos, key_sin = self._key_factors(block_idx, row_idx)  # (M, K)
        offset = np.zeros((shape.recompute, len(row_idx), shape.key_width), np.float32)
        offset[~step.block_mask, :, shape.validity] = INVALID
        select = np.arange(shape.spec.tokens)  # (S,)
        select[shape.areas.place_idx[tokens]] = shape.spec.tokens + np.arange(len(tokens))
        return StepTables(
            slots=step.slots(step.block_idx),
            previous_slot=step.slots(step.newest - 1),
            token_idx=tokens,
            area_counts=np.array(shape.areas.counts(tokens)),
            select=select,
            query_cos=query_cos,
            query_sin=query_sin,
            key_cos=key_cos,
            key_sin=key_sin,
            key_offset=offset.reshape(-1, shape.key_width),  # (M, K)
            size=step.size,
        )

    def _query_factors(self, position_idx: Indices, shift: int, tokens: Indices) -> tuple[Floats, Floats]:
        """Rotate to window positions (r,), meet u with cos(s a) and v with sin(s a), and scale for attention."""
        cos, sin = self._depth_factors(position_idx)  # (r, d)
        of_u, of_v = self._depth_factors(np.array([shift]))  # (1, d)
        scale, signed = np.float32(self.shape.scale), sin * self._sign
        return (
            scale * self._lay_out(self._cos[tokens], cos * of_u, cos * of_v),
            scale * self._lay_out(self._sin[tokens], signed * of_u, signed * of_v),
        )

    def _key_factors(self, tubelet_idx: Indices, tokens: Indices) -> tuple[Floats, Floats]:
        """Make u and v of the keys of tubelets of these numbers (r,)."""
        cos, sin = self._depth_factors(tubelet_idx)  # (r, d)
        signed = self._sign * sin, self._sign * cos
        return self._lay_out(self._cos[tokens], cos, -sin), self._lay_out(self._sin[tokens], *signed)

    def _depth_factors(self, positions: Indices) -> tuple[Doubles, Doubles]:
        """Cosines and sines of the depth part at P positions, without signs: (P, d)."""
        angle = depth_angles(self.shape.spec, positions, "float64").angle
        return np.cos(angle), np.sin(angle)

    def _lay_out(self, patches: Floats, depth: Doubles, derivative: Doubles) -> Floats:
        """Join factors of a tubelet's rows (R, K) with those of depth and its derivative (r, d): (r*R, K)."""
        factors = np.broadcast_to(patches, (self.shape.recompute, *patches.shape)).copy()  # (r, R, K)
        factors[..., self._depth], factors[..., self.shape.derivative] = depth[:, None], derivative[:, None]
        joined: Floats = factors.reshape(-1, self.shape.key_width)  # (r*R, K)
        return joined

    def read_keys(self, cached: Floats, count: int) -> Floats:
        """Bring cached keys (.., K) to their window positions once `count` tubelets are there: plain keys (.., E)."""
        shape = self.shape
        shift = StepIndices(count - 1, shape.window, shape.recompute).shift
        of_u, of_v = self._depth_factors(np.array([shift]))  # (1, d)
        keys: Floats = cached[..., : shape.spec.head_width].copy()
        keys[..., self._depth] = cached[..., self._depth] * of_u[0] + cached[..., shape.derivative] * of_v[0]
        return keys


def empty_keys(shape: StepShape, layer: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[np.generic]:
    """Make a layer's keys of a stream that has seen nothing: every slot invalid."""
    keys = np.zeros(shape.keys(layer), dtype)
    keys[..., shape.validity] = INVALID
    return keys
