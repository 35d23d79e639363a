"""Area attention in the graph of the step: rows and ring cut at the bounds that encoder/areas.py defines."""

from collections.abc import Callable
from dataclasses import dataclass

from saccade_ros.backends.graph.onnx_graph import OnnxGraph
from saccade_ros.backends.window import StepShape


@dataclass(frozen=True)
class AreaAttention:
    """Attention in each area by itself: no softmax holds a key of another area, and none a row that fills up.

    Attributes:
        attend: writes the attention of some queries to some keys.
        rows_vary: rows of an area are as many as the input area_counts says; else those of whole tubelets.
    """

    shape: StepShape
    graph: OnnxGraph
    attend: Callable[[str, str, str], str]
    rows_vary: bool

    def __call__(self, query: str, keys: str, values: str) -> str:
        """Write it: (B, A, M, K), (B, A, W*S, K), (B, A, W*S, E) -> (B, A, M, E)."""
        ring = (self._cut(part, self.shape.window) for part in (keys, values))
        if self.rows_vary:
            queries = self.graph.split_by(query, "area_counts", self.shape.areas.number, axis=2)  # G times (B, A, m, K)
            return self.graph.add("Concat", *map(self.attend, queries, *ring), axis=2)
        queries = self._cut(query, self.shape.recompute)  # G times (B, A, r*n, K)
        return self._join(list(map(self.attend, queries, *ring)), self.shape.recompute)

    def _cut(self, x: str, tubelets: int) -> list[str]:
        """Cut whole tubelets in areas of n tokens: (B, A, T*S, .) -> G times (B, A, T*n, .)."""
        graph, sizes, by_head = self.graph, self.shape.areas.sizes, (self.shape.batch, self.shape.spec.heads)
        by_tubelet = graph.reshape(x, *by_head, tubelets, self.shape.spec.tokens, -1)  # (B, A, T, S, .)
        parts = graph.split(by_tubelet, *sizes, axis=3)
        return [graph.reshape(part, *by_head, tubelets * size, -1) for part, size in zip(parts, sizes, strict=True)]

    def _join(self, parts: list[str], tubelets: int) -> str:
        """Join areas to whole tubelets, the inverse of _cut: G times (B, A, T*n, .) -> (B, A, T*S, .)."""
        graph, sizes, by_head = self.graph, self.shape.areas.sizes, (self.shape.batch, self.shape.spec.heads)
        split = [graph.reshape(part, *by_head, tubelets, size, -1) for part, size in zip(parts, sizes, strict=True)]
        return graph.reshape(graph.add("Concat", *split, axis=3), *by_head, tubelets * self.shape.spec.tokens, -1)
