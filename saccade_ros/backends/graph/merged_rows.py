"""Token merging in the graph of a step: as encoder/merging.py does it, for each stream of a batch.

Everything here is fp32, whatever the graph's precision: a sum over many patches outgrows fp16.
"""

from typing import Protocol

import numpy as np

from saccade_ros.backends.graph.onnx_graph import OnnxGraph
from saccade_ros.backends.interface import TABLES
from saccade_ros.backends.window import StepShape
from saccade_ros.encoder.positions import patch_positions, plane_rates


class Rows(Protocol):
    """Rows of a step: the tables that rotate them, and what becomes of them between layers."""

    def tables(self) -> dict[str, str]:
        """Write a layer's tables, (B, 1, M, K) each in the graph's precision, by name."""
        ...

    def merge(self, layer: int, x: str, key: str) -> str:
        """Merge rows x (B, M, D) by their keys (B, M, D), between attention and MLP: (B, M-r, D)."""
        ...

    def finish(self) -> None:
        """Write what the graph outputs of them beside the tokens."""
        ...


class PlainRows:
    """Rows that stay what they are; the host made their tables."""

    def __init__(self, shape: StepShape, graph: OnnxGraph) -> None:
        names = [*TABLES, *["key_offset"] * (shape.recompute > 1)]
        self._tables = {
            name: graph.reshape(graph.cast_own(name), shape.batch, 1, -1, shape.key_width) for name in names
        }

    def tables(self) -> dict[str, str]:
        """See Rows."""
        return self._tables

    def merge(self, layer: int, x: str, key: str) -> str:
        """See Rows."""
        return x

    def finish(self) -> None:
        """See Rows."""


class MergedRows:
    """Rows that are merged: their places (B, M, 2) and sizes (B, M, 1) are values of the graph."""

    def __init__(self, shape: StepShape, graph: OnnxGraph) -> None:
        self._shape, self._graph = shape, graph
        grid = np.stack(patch_positions(shape.spec, "float32"), axis=1)  # (S, 2)
        self._places = graph.exact("grid", np.tile(grid, (shape.batch, 1, 1)))
        self._sizes = graph.exact("sizes_of_patches", np.ones((shape.batch, shape.spec.tokens, 1), np.float32))
        rates = np.zeros((3, shape.key_width), np.float32)  # of rows, of columns, and signs
        rates[:, : shape.spec.head_width] = np.vstack(plane_rates(shape.spec, "float32"))
        self._rates = [
            graph.exact(f"plane_{name}", row) for name, row in zip(("row", "column", "sign"), rates, strict=True)
        ]
        self._least_length = graph.exact("least_length", np.array(1e-12, np.float32))  # as torch's normalize has it
        self._scale = graph.exact("scale", np.array(shape.scale, np.float32))
        validity = np.zeros(shape.key_width, np.float32)
        validity[shape.validity] = 1 / shape.scale  # the query has the scale there
        self._log_size = graph.exact("log_size", validity)

    def tables(self) -> dict[str, str]:
        """See Rows. Height and width, which the graph knows, joined with depth, which the host knows.

        No channel is rotated by both: so cosines multiply, where the other's is 1, and sines add, where it is 0.
        """
        add = self._graph.add
        (row, column), (by_row, by_column, sign) = self._graph.split(self._places, 1, 1), self._rates
        angle = add("Add", add("Mul", row, by_row), add("Mul", column, by_column))  # (B, M, K)
        cos, sin = add("Cos", angle), add("Mul", add("Sin", angle), sign)
        tables = {
            "query_cos": add("Mul", "query_cos", cos),
            "query_sin": add("Add", "query_sin", add("Mul", sin, self._scale)),
            "key_cos": add("Mul", "key_cos", cos),
            "key_sin": add("Add", "key_sin", sin),
            "key_offset": add("Mul", add("Log", self._sizes), self._log_size),
        }
        return {name: self._by_head(table) for name, table in tables.items()}

    def _by_head(self, table: str) -> str:
        """(B, M, K) -> (B, 1, M, K)."""
        return self._graph.reshape(self._graph.cast_own(table), self._shape.batch, 1, -1, self._shape.key_width)

    def merge(self, layer: int, x: str, key: str) -> str:
        """See Rows."""
        graph, batch, width = self._graph, self._shape.batch, self._shape.spec.width
        count, left = self._shape.counts[layer : layer + 2]
        if count == left:
            return x
        source, target, kept = self._match(key, count, count - left)
        ones = graph.exact(f"ones_{layer}", np.ones((batch, count, 1), np.float32))
        placed = graph.add("Concat", graph.cast_fp32(x), self._places, ones, axis=-1)  # (B, M, D+3)
        parts = graph.add("Mul", placed, self._sizes)
        moved = self._rows(parts, source)  # (B, r, D+3)
        sums = graph.add("Add", parts, graph.add("MatMul", self._one_hot(target, count), moved))
        means, self._sizes = graph.split(self._rows(sums, kept), width + 2, 1)  # (B, M-r, D+2), (B, M-r, 1)
        merged, self._places = graph.split(graph.add("Div", means, self._sizes), width, 2)
        return graph.cast_own(merged)

    def _match(self, key: str, count: int, merged: int) -> tuple[str, str, str]:
        """Sources and targets (B, r) and rows kept (B, M-r), as encoder/merging.py matches them."""
        graph, add = self._graph, self._graph.add
        directions = self._directions(key)  # (B, M, E)
        even, odd = (add("Gather", directions, graph.ints(*range(i, count, 2)), axis=1) for i in (0, 1))
        similarity = add("MatMul", even, add("Transpose", odd, perm=[0, 2, 1]))  # (B, ceil(M/2), floor(M/2))
        best = add("ReduceMax", similarity, graph.ints(2), keepdims=0)
        partner = add("ArgMax", similarity, axis=2, keepdims=0)  # (B, ceil(M/2)), the first of equal ones
        chosen = graph.largest(best, merged)  # (B, r)
        twice, one = graph.ints(2), graph.ints(1)
        source = add("Mul", chosen, twice)
        target = add("Add", add("Mul", add("GatherElements", partner, chosen, axis=1), twice), one)
        return source, target, self._kept(source, count, count - merged)

    def _directions(self, key: str) -> str:
        """Keys (B, M, D) as unit vectors, mean over heads: (B, M, E)."""
        graph, spec, add = self._graph, self._shape.spec, self._graph.add
        by_head = graph.reshape(graph.cast_fp32(key), self._shape.batch, -1, spec.heads, spec.head_width)
        mean = add("ReduceMean", by_head, graph.ints(2), keepdims=0)  # (B, M, E)
        length = add("ReduceL2", mean, graph.ints(2), keepdims=1)
        return add("Div", mean, add("Max", length, self._least_length))

    def _kept(self, source: str, count: int, left: int) -> str:
        """Rows that are no source, ascending: (B, M-r). A sort of whole numbers is not in every runtime."""
        graph, add = self._graph, self._graph.add
        is_source = add("ReduceMax", self._one_hot(source, count), graph.ints(2), keepdims=0)  # (B, M)
        order = graph.exact(f"order_{count}", -np.arange(count, dtype=np.float32))
        last = graph.exact(f"last_{count}", np.array(count, np.float32))
        return graph.largest(add("Sub", order, add("Mul", is_source, last)), left)

    def _one_hot(self, idx: str, count: int) -> str:
        """1 where a row is the one of an index, else 0: (B, r) -> (B, M, r)."""
        graph = self._graph
        rows = graph.reshape(graph.ints(*range(count)), 1, count, 1)
        return graph.cast_bool(graph.add("Equal", rows, graph.reshape(idx, self._shape.batch, 1, -1)))

    def _rows(self, x: str, idx: str) -> str:
        """Rows of x (B, M, .) at the indices (B, r): (B, r, .)."""
        by_stream = self._graph.reshape(idx, self._shape.batch, -1, 1)
        return self._graph.add("GatherND", x, by_stream, batch_dims=1)

    def finish(self) -> None:
        """See Rows."""
        self._graph.add("Identity", self._graph.reshape(self._sizes, self._shape.batch, -1), output="sizes")
