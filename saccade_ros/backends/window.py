"""The host's part of an exported step, in NumPy: which slots a step writes, and how it turns queries and keys.

The torch ring turns the depth part of every cached key again at each read (encoder/ring.py). A graph that did so would
copy its whole cache at each step. Here a key is written once and never touched: beside its depth part turned to the
tubelet's index t, u = R(t) k, it keeps the derivative of that turn, v = R'(t) k. With a shift of s positions

    R(t + s) k = cos(s a) u + sin(s a) v      for each channel's own angle a, so for both layouts of rope.py

and the shift, one number for all keys of a step, is multiplied into the queries. A key is E + rope width channels, plus
one that says whether its slot is valid (a query has 1 there), rounded up to 8:

    [ u, height and width turned, rest | v | validity | 0 .. ]
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

INVALID = -30000.0  # of a key's validity channel: its softmax weight is exactly 0, and fp16 holds it


@dataclass(frozen=True)
class StepShape:
    """Sizes of an exported step; static, except that one graph serves any number of steps.

    Attributes:
        batch: streams per call (B).
        rope: "tiled" or "interleaved"; see encoder/rope.py.
    """

    batch: int
    window: int
    recompute: int
    depth: int
    width: int
    heads: int
    grid: int
    rope: Literal["tiled", "interleaved"]

    @property
    def tokens(self) -> int:
        """Tokens per tubelet (S)."""
        return self.grid * self.grid

    @property
    def rows(self) -> int:
        """Tokens a step computes per stream, r*S."""
        return self.recompute * self.tokens

    @property
    def head_width(self) -> int:
        """Channels of a value (E)."""
        return self.width // self.heads

    @property
    def rope_width(self) -> int:
        """Channels that each of depth, height and width turns."""
        return 2 * (self.head_width // 3 // 2)

    @property
    def validity(self) -> int:
        """Which channel of a key says that its slot is valid."""
        return self.head_width + self.rope_width

    @property
    def key_width(self) -> int:
        """Channels of a cached key (K): see the module's head."""
        return -(-(self.validity + 1) // 8) * 8

    @property
    def scale(self) -> float:
        """Of attention scores; multiplied into the queries."""
        return float(self.head_width**-0.5)

    @property
    def keys(self) -> tuple[int, int, int, int]:
        """One layer's cached keys: (B, A, W*S, K)."""
        return self.batch, self.heads, self.window * self.tokens, self.key_width

    @property
    def values(self) -> tuple[int, int, int, int]:
        """One layer's cached values: (B, A, W*S, E)."""
        return self.batch, self.heads, self.window * self.tokens, self.head_width

    def cache_bytes(self, bytes_per_value: int) -> int:
        """Memory of one stream's cache: keys and values of all layers, patches of the block in fp32, pooled outputs."""
        kv = self.depth * self.heads * self.window * self.tokens * (self.key_width + self.head_width)
        return kv * bytes_per_value + 4 * (self.rows + self.window) * self.width


@dataclass(frozen=True)
class StepTables:
    """Inputs of one stream's step that depend on how many tubelets came before.

    Attributes:
        slots: where each tubelet of the block is kept, oldest first: (r,) int64.
        query_cos, query_sin, key_cos, key_sin: factors of a row's channels, and of their pair partners: (r*S, K).
        key_offset: INVALID in the validity channel of rows that stand for no tubelet (young streams): (r*S, K).
        size: how many tubelets of the block exist (m), 1..r; the newest ones.
    """

    slots: npt.NDArray[np.int64]
    query_cos: Floats
    query_sin: Floats
    key_cos: Floats
    key_sin: Floats
    key_offset: Floats
    size: int


class WindowTables:
    """Makes the StepTables of any step of a stream. Angles are float64: a stream may run for years."""

    def __init__(self, shape: StepShape) -> None:
        self.shape = shape
        half = shape.rope_width // 2
        frequency = 10000.0 ** (-np.arange(half) / half)
        tiled = shape.rope == "tiled"
        self._frequency = np.tile(frequency, 2) if tiled else np.repeat(frequency, 2)  # (d,)
        self._sign = np.tile([-1.0, 1.0], half)  # (d,): of a pair (a, b), a takes -b and b takes +a
        self._cos, self._sin = self._still_part()

    def _still_part(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Height and width turned, all else passed through: factors (S, K)."""
        shape, d = self.shape, self.shape.rope_width
        cos, sin = np.zeros((shape.tokens, shape.key_width)), np.zeros((shape.tokens, shape.key_width))
        cos[:, : shape.head_width] = 1.0
        patch_idx = np.arange(shape.tokens)
        for part, positions in ((1, patch_idx // shape.grid), (2, patch_idx % shape.grid)):
            angles = positions[:, None] * self._frequency  # (S, d)
            cos[:, part * d : (part + 1) * d] = np.cos(angles)
            sin[:, part * d : (part + 1) * d] = np.sin(angles) * self._sign
        return cos, sin

    def at(self, count: int) -> StepTables:
        """The step that encodes tubelet number `count` of a stream (encoder/ring.py, Block, in other words)."""
        shape = self.shape
        block_idx = np.arange(count - shape.recompute + 1, count + 1)  # (r,); negative: not there yet
        shift = min(count, shape.window - 1) - count
        offset = np.zeros((shape.recompute, shape.tokens, shape.key_width), np.float32)
        offset[block_idx < 0, :, shape.validity] = INVALID
        indices = [max(int(i), 0) for i in block_idx]
        query = [self._query_factors(i, shift) for i in indices]
        key = [self._key_factors(i) for i in indices]
        return StepTables(
            slots=block_idx % shape.window,
            query_cos=np.concatenate([cos for cos, _ in query]),
            query_sin=np.concatenate([sin for _, sin in query]),
            key_cos=np.concatenate([cos for cos, _ in key]),
            key_sin=np.concatenate([sin for _, sin in key]),
            key_offset=offset.reshape(shape.rows, shape.key_width),
            size=min(shape.recompute, count + 1),
        )

    def _query_factors(self, index: int, shift: int) -> tuple[Floats, Floats]:
        """Turned to its window position, met with u by cos(s a) and with v by sin(s a), and scaled for attention."""
        position, back = (index + shift) * self._frequency, shift * self._frequency
        cos, sin = np.cos(position), np.sin(position) * self._sign
        factors = self._with_depth(cos * np.cos(back), sin * np.cos(back), cos * np.sin(back), sin * np.sin(back))
        return factors[0] * np.float32(self.shape.scale), factors[1] * np.float32(self.shape.scale)

    def _key_factors(self, index: int) -> tuple[Floats, Floats]:
        """u and v of a tubelet's keys."""
        angle = index * self._frequency
        cos, sin = np.cos(angle), np.sin(angle)
        return self._with_depth(cos, sin * self._sign, -sin, cos * self._sign)

    def _with_depth(self, u_cos: object, u_sin: object, v_cos: object, v_sin: object) -> tuple[Floats, Floats]:
        cos, sin = self._cos.copy(), self._sin.copy()
        d, v = self.shape.rope_width, slice(self.shape.head_width, self.shape.validity)
        cos[:, :d], sin[:, :d], cos[:, v], sin[:, v] = u_cos, u_sin, v_cos, v_sin
        return cos.astype(np.float32), sin.astype(np.float32)

    def read_keys(self, cached: Floats, count: int) -> Floats:
        """Cached keys (..., K) as plain keys (..., E) at their window positions once `count` tubelets are there."""
        shape, shift = self.shape, (min(count - 1, self.shape.window - 1) - (count - 1)) * self._frequency
        keys: Floats = cached[..., : shape.head_width].copy()
        u, v = cached[..., : shape.rope_width], cached[..., shape.head_width : shape.validity]
        keys[..., : shape.rope_width] = u * np.cos(shift) + v * np.sin(shift)
        return keys


def empty_keys(shape: StepShape, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[np.generic]:
    """One layer's keys of a stream that has seen nothing: every slot invalid."""
    keys = np.zeros(shape.keys, dtype)
    keys[..., shape.validity] = INVALID
    return keys
