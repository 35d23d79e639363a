"""ONNX graph of the cached step, made node by node from an encoder's own tensors.

One call encodes the newest r tubelets of B streams. K and the tables are backends/window.py's; M is the number of
tokens computed: r*S in a dense step, any in a sparse one. Every other size is static. Where tokens merge, tables have
one row for all tokens, and each layer's S is the number that it attends with (merged_rows.py).

    patches (B, M, D)                           patch embeddings of the tokens, newest tubelet last
    query_cos, query_sin, key_cos, key_sin      (B, M, K): rotations of the rows
    key_offset (B, M, K)                        validity of the block's tubelets; only for r > 1
    slots (r, B)                                slots of the block's tubelets
    previous_slot (B,), select (B, S)           where sparse steps can be: slot of the previous tubelet; of each token j
                                                of the new one, j where it keeps the previous one's key and value, else
                                                S + its row among the computed ones
    area_counts (G,)                            where sparse steps can be and layers attend by area: rows of each area
    keys_i (B, A, W*S, K), values_i (B, A, W*S, E)      the ring, of each layer; invalid slots say so themselves
->  tokens (B, M, D)                            after the final norm; a tubelet's embedding is the mean of its S
    sizes (B, M)                                where tokens merge: patches that each stands for; weights of that mean

With areas (encoder/areas.py) rows and slots are in area order, and attention splits both at the bounds of the areas.
Streams that compute fewer tokens than others of a batch fill up with rows of zeros, with areas each of them by itself:
what no `select` names is attended to by nobody. Keys and values have the precision of the graph, all else is fp32. The
block's come by one of two contracts:

    host     keys_new_i, values_new_i (B, A, r*S, .): the caller writes them into its slots. Plain operators only.
    scatter  keys_out_i, values_out_i: the ring itself, updated by TensorScatter. Bind the input's own buffer as the
             output and nothing is copied (ONNX Runtime's CPU provider; TensorRT's KVCacheUpdate).

Why by hand and not traced: every tensor of the encoder must be used, or the export is refused, so that a model with a
new part cannot be exported without it; linear nodes keep their names, which is what quantization selects by.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from saccade_ros.backends.graph.area_attention import AreaAttention
from saccade_ros.backends.graph.merged_rows import MergedRows, PlainRows, Rows
from saccade_ros.backends.graph.onnx_graph import MadeGraph, OnnxGraph
from saccade_ros.backends.interface import (
    WHOLE_NUMBERS,
    Steps,
    describe_embed,
    describe_step,
    embed_sizes,
    input_sizes,
    output_sizes,
)
from saccade_ros.backends.window import Contract, Floats, StepShape
from saccade_ros.encoder.positions import depth_angles, head_parts, pair_partners
from saccade_ros.encoder.spec import ModelSpec

LINEARS = ("query", "key", "value", "proj", "fc1", "fc2")


class GraphError(ValueError):
    """Encoder of which no graph can be made. The message says why and the remedy."""


def linear_nodes(depth: int) -> list[str]:
    """Names of the linear layers' MatMul nodes, which quantization selects."""
    return [f"layer{i}.{name}" for i in range(depth) for name in LINEARS]


class Weights:
    """Tensors of an encoder, each to be used once. `state` loses what is taken, so that memory does not double."""

    def __init__(self, state: dict[str, Floats]) -> None:
        self._left = state

    def take(self, name: str) -> Floats:
        """Give a tensor out."""
        return self._left.pop(name)

    def refuse_unused(self) -> None:
        """Raise GraphError if a tensor was not taken."""
        if self._left:
            raise GraphError(
                "the encoder has tensors that the exported step does not compute with: "
                f"{', '.join(sorted(self._left)[:3])}; this kind of checkpoint runs on the torch backend only"
            )


def build_embed(spec: ModelSpec, weights: Weights) -> MadeGraph:
    """Build the gate's front end: pixels (2, 3, H, H) -> patches (S, D), as StreamingEncoder.embed does it."""
    graph = OnnxGraph()
    g, p = spec.grid, spec.patch_size
    cells = graph.reshape("pixels", spec.tubelet_size, 3, g, p, g, p)  # (2, 3, g, p, g, p)
    moved = graph.add("Transpose", cells, perm=[2, 4, 1, 0, 3, 5])  # (g, g, 3, 2, p, p)
    flat = graph.reshape(moved, spec.tokens, spec.patch_values)
    weight = graph.constant("patch_embed.weight", weights.take("patch_embed.weight").T)
    product = graph.add("MatMul", flat, weight, name="patch_embed")
    graph.add("Add", product, graph.constant("patch_embed.bias", weights.take("patch_embed.bias")), output="patches")
    inputs, outputs = ([_tensor(name, sizes) for name, sizes in side.items()] for side in embed_sizes(spec))
    return graph.model("embed", inputs, outputs, describe_embed(spec))


def build_step(
    shape: StepShape,
    weights: Weights,
    contract: Contract = "scatter",
    precision: str = "fp32",
    steps: Steps = "any",
) -> MadeGraph:
    """Build the cached step in fp32, fp16 or bf16; see the module's head for inputs and outputs.

    Args:
        weights: all but the front end's.
        steps: "any" branches inside, so that a dense step costs nothing more than in a graph of dense steps alone.
            Where no step can be sparse, "any" is "dense".

    Raises:
        GraphError: the encoder has a part that this graph does not compute.
        OverflowError: a weight is too large for the precision.
    """
    graph = OnnxGraph(precision)
    steps = steps if shape.can_be_sparse else "dense"
    rows: Rows = MergedRows(shape, graph) if shape.merge else PlainRows(shape, graph)
    layers = _StepBuilder(shape, weights, graph, contract, steps, rows)
    x = graph.cast_own("patches")
    for i in range(shape.spec.depth):
        x = layers.layer(i, x)
    graph.cast_output(layers.norm("norm", x), "tokens")
    rows.finish()
    weights.refuse_unused()
    inputs = step_inputs(shape, graph.type, steps)
    outputs = step_outputs(shape, contract, graph.type, steps)
    return graph.model("step", inputs, outputs, describe_step(shape, contract), contract)


def step_inputs(shape: StepShape, cached: int = TensorProto.FLOAT, steps: Steps = "any") -> list[onnx.ValueInfoProto]:
    """Names, types and shapes of a step's inputs."""
    return [_tensor(name, sizes, _type(name, cached)) for name, sizes in input_sizes(shape, steps).items()]


def step_outputs(
    shape: StepShape, contract: Contract, cached: int = TensorProto.FLOAT, steps: Steps = "any"
) -> list[onnx.ValueInfoProto]:
    """Names, types and shapes of a step's outputs."""
    return [_tensor(name, sizes, _type(name, cached)) for name, sizes in output_sizes(shape, contract, steps).items()]


def _type(name: str, cached: int) -> int:
    if name in WHOLE_NUMBERS:
        return int(TensorProto.INT64)
    return cached if name.startswith(("keys_", "values_")) else int(TensorProto.FLOAT)


def _tensor(name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


class _StepBuilder:
    """Writer of the step's layers into a graph."""

    def __init__(
        self, shape: StepShape, weights: Weights, graph: OnnxGraph, contract: Contract, steps: Steps, rows: Rows
    ) -> None:
        self._shape, self._spec = shape, shape.spec
        self._weights, self._graph, self._contract = weights, graph, contract
        # (E, K) zeros and ones: a product with them lays the channels out as keys, or as each one's pair partner.
        # ONNX Runtime gathers single channels four times slower than it multiplies.
        channels = np.eye(self._spec.head_width, dtype=np.float32)
        own = np.zeros((self._spec.head_width, shape.key_width), np.float32)
        own[:, : self._spec.head_width] = channels
        own[:, shape.derivative] = channels[:, head_parts(self._spec).depth]
        self._spread = graph.constant("spread", own)
        self._spread_partner = graph.constant("spread_partner", own[pair_partners(self._spec.head_width)])
        validity = np.zeros((1, 1, shape.key_width), np.float32)
        validity[..., shape.validity] = shape.scale
        self._query_validity = graph.constant("query_validity", validity)
        self._rows = rows
        self._tables: dict[str, str] = {}  # of the present layer
        counts = dict.fromkeys(shape.counts[:-1])
        self._slots = {count: [self._slot(j, count) for j in range(shape.recompute)] for count in counts}
        self._attend_by_area = AreaAttention(shape, graph, self._attend, rows_vary=steps != "dense")
        self._fill = {"any": self._fill_any, "dense": self._fill_whole, "sparse": self._fill_some}[steps]
        if steps != "dense":
            self._prepare_sparse_steps()
        if steps == "any":
            least = graph.add("ReduceMin", "select", keepdims=0)  # below S if a token is kept
            self._is_sparse = graph.add("Less", least, graph.ints(self._spec.tokens))  # (1,)

    def _prepare_sparse_steps(self) -> None:
        """Write what the layers of sparse steps share: indices for each head, and the rotation of kept keys."""
        graph, batch, heads = self._graph, self._shape.batch, self._spec.heads
        self._select, self._previous_slot = (
            graph.add("Expand", graph.reshape(name, batch, 1, -1, 1), graph.ints(batch, heads, rows, 1))
            for name, rows in (("select", self._spec.tokens), ("previous_slot", 1))
        )  # (B, A, S, 1), (B, A, 1, 1)
        angle = depth_angles(self._spec, np.ones(1, np.int64), "float64").angle[0]  # (d,)
        self._one_tubelet = [
            graph.exact(f"one_tubelet_{name}", of(angle).astype(np.float32))
            for name, of in (("cos", np.cos), ("sin", np.sin))
        ]

    def layer(self, i: int, x: str) -> str:
        """Write layer i: (B, M, D) -> (B, M, D)."""
        add = self._graph.add
        self._tables = self._rows.tables()
        query, key, value = self._projections(i, self.norm(f"layers.{i}.norm1", x))
        x = add("Add", x, self._attention(i, query, key, value))
        x = self._rows.merge(i, x, key)
        hidden = self._linear(f"layer{i}.fc1", f"layers.{i}.fc1", self.norm(f"layers.{i}.norm2", x))
        return add("Add", x, self._linear(f"layer{i}.fc2", f"layers.{i}.fc2", add("Gelu", hidden)))

    def _attention(self, i: int, query: str, key: str, value: str) -> str:
        add, shape = self._graph.add, self._shape
        query = add("Add", self._rotate(self._heads(query), "query"), self._query_validity)  # (B, A, M, K)
        keys, values = self._cache(i, key, value)  # (B, A, W*S, K or E)
        out = (self._attend_by_area if i < shape.areas.layers else self._attend)(query, keys, values)  # (B, A, M, E)
        joined = self._graph.reshape(add("Transpose", out, perm=[0, 2, 1, 3]), shape.batch, -1, self._spec.width)
        return self._linear(f"layer{i}.proj", f"layers.{i}.attention.proj", joined)

    def _attend(self, query: str, keys: str, values: str) -> str:
        """Attend to N keys, those of the ring or of an area: (B, A, M, K), (B, A, N, K), (B, A, N, E) -> (B, A, M, E).

        Not the Attention operator: TensorRT's wants values as wide as keys, and ONNX Runtime's is no faster. The scale
        is in the query's tables.
        """
        add = self._graph.add
        scores = add("MatMul", query, add("Transpose", keys, perm=[0, 1, 3, 2]))  # (B, A, M, N)
        return add("MatMul", add("Softmax", scores, axis=-1), values)

    def _projections(self, i: int, x: str) -> list[str]:
        """Queries, keys and values of the rows, (B, M, D) each."""
        weight, bias = (self._weights.take(f"layers.{i}.attention.qkv.{kind}") for kind in ("weight", "bias"))
        parts = zip(LINEARS[:3], np.split(weight, 3), np.split(bias, 3), strict=True)
        return [self._product(f"layer{i}.{name}", x, w, b) for name, w, b in parts]

    def _heads(self, x: str) -> str:
        """(B, M, D) -> (B, A, M, E)."""
        split = self._graph.reshape(x, self._shape.batch, -1, self._spec.heads, self._spec.head_width)
        return self._graph.add("Transpose", split, perm=[0, 2, 1, 3])

    def _rotate(self, x: str, what: str) -> str:
        """(B, A, M, E) -> (B, A, M, K), laid out and rotated as window.py says."""
        add = self._graph.add
        own = add("Mul", add("MatMul", x, self._spread), self._tables[f"{what}_cos"])
        partner = add("Mul", add("MatMul", x, self._spread_partner), self._tables[f"{what}_sin"])
        return add("Add", own, partner)

    def _cache(self, i: int, key: str, value: str) -> list[str]:
        """Layer i's ring with the rows' keys and values (B, M, D) written: (B, A, W*S, K or E)."""
        block = self._fill(i, key, value)
        return [self._store(kind, i, part) for kind, part in zip(_CACHED, block, strict=True)]

    def _fill_any(self, i: int, key: str, value: str) -> list[str]:
        """The new slots, as either of the two below makes them."""
        by = (lambda: self._fill_some(i, key, value)), (lambda: self._fill_whole(i, key, value))
        return self._graph.choose(self._is_sparse, *by)

    def _fill_whole(self, i: int, key: str, value: str) -> list[str]:
        """Keys and values as they are cached: (B, A, M, K or E)."""
        keys = self._rotate(self._heads(key), "key")
        if "key_offset" in self._tables:
            keys = self._graph.add("Add", keys, self._tables["key_offset"])
        return [keys, self._heads(value)]

    def _fill_some(self, i: int, key: str, value: str) -> list[str]:
        """The previous tubelet's slot with the computed rows in their places: (B, A, S, K or E)."""
        keys, values = (self._previous(kind, i) for kind in _CACHED)
        kept = self._one_tubelet_on(keys), values
        both = zip(kept, self._fill_whole(i, key, value), strict=True)
        joined = [self._graph.add("Concat", *parts, axis=2) for parts in both]  # (B, A, S+M, .)
        return [self._graph.add("GatherND", part, self._select, batch_dims=2) for part in joined]

    def _previous(self, kind: str, i: int) -> str:
        """The previous tubelet's slot of the ring: (B, A, S, .)."""
        graph, batch, heads = self._graph, self._shape.batch, self._spec.heads
        by_slot = graph.reshape(f"{kind}_{i}", batch, heads, self._shape.window, -1)
        slot = graph.add("GatherND", by_slot, self._previous_slot, batch_dims=2)  # (B, A, 1, S*.)
        return graph.reshape(slot, batch, heads, self._spec.tokens, -1)

    def _one_tubelet_on(self, keys: str) -> str:
        """Keys (B, A, S, K) of a tubelet as keys of the next one: u and v rotated once more, as window.py says.

        In fp32 and not as a matrix product, which a GPU may round to 10 bits: a key may be kept for many tubelets.
        """
        graph, shape = self._graph, self._shape
        add, (cos, sin) = graph.add, self._one_tubelet
        depth, width = self._spec.rope_width, self._spec.head_width
        u, others, v, rest = graph.split(keys, depth, width - depth, depth, shape.key_width - shape.validity)
        u, v = graph.cast_fp32(u), graph.cast_fp32(v)
        next_u = add("Add", add("Mul", u, cos), add("Mul", v, sin))
        next_v = add("Sub", add("Mul", v, cos), add("Mul", u, sin))
        return add("Concat", graph.cast_own(next_u), others, graph.cast_own(next_v), rest, axis=-1)

    def _store(self, kind: str, i: int, new: str) -> str:
        """The ring with the block's part written: (B, A, W*S, .)."""
        if self._contract == "host":
            self._graph.add("Identity", new, output=f"{kind}_new_{i}")
        ring = f"{kind}_{i}"
        tokens = self._shape.counts[i]
        for j, (slot, block) in enumerate(zip(self._slots[tokens], self._tubelets(new), strict=True)):
            last = j == self._shape.recompute - 1
            output = f"{kind}_out_{i}" if last and self._contract == "scatter" else ""
            ring = self._write(ring, block, slot, tokens, output)
        return ring

    def _tubelets(self, new: str) -> list[str]:
        """(B, A, r*S, .) -> r times (B, A, S, .)."""
        graph, tokens = self._graph, self._spec.tokens
        if self._shape.recompute == 1:
            return [new]
        return [
            graph.add("Slice", new, graph.ints(j * tokens), graph.ints((j + 1) * tokens), graph.ints(2))
            for j in range(self._shape.recompute)
        ]

    def _slot(self, j: int, tokens: int) -> str:
        """Slot of the j-th tubelet: as TensorScatter takes it (B,), or True at its place (B, 1, W, 1, 1)."""
        graph, shape = self._graph, self._shape
        slot = graph.add("Gather", "slots", graph.constant(f"tubelet{j}_{tokens}", np.array(j, np.int64)))  # (B,)
        if self._contract == "scatter":
            return graph.add("Mul", slot, graph.ints(tokens))
        every = graph.reshape(graph.ints(*range(shape.window)), 1, 1, shape.window, 1, 1)
        return graph.add("Equal", graph.reshape(slot, shape.batch, 1, 1, 1, 1), every)

    def _write(self, ring: str, block: str, slot: str, tokens: int, output: str) -> str:
        """(B, A, W*S, .) with one slot replaced by (B, A, S, .)."""
        graph, shape, spec = self._graph, self._shape, self._spec
        if self._contract == "scatter":
            return graph.add("TensorScatter", ring, block, slot, axis=2, output=output)
        by_slot = graph.reshape(ring, shape.batch, spec.heads, shape.window, tokens, -1)
        one = graph.reshape(block, shape.batch, spec.heads, 1, tokens, -1)
        written = graph.add("Where", slot, one, by_slot)  # (B, A, W, S, .)
        return graph.reshape(written, shape.batch, spec.heads, shape.window * tokens, -1)

    def norm(self, module: str, x: str) -> str:
        """Write a layer norm over the channels."""
        names = [self._graph.constant(f"{module}.{kind}", self._weights.take(f"{module}.{kind}")) for kind in _PAIR]
        return self._graph.add("LayerNormalization", x, *names, axis=-1, epsilon=self._spec.norm_eps)

    def _linear(self, name: str, module: str, x: str) -> str:
        return self._product(name, x, *(self._weights.take(f"{module}.{kind}") for kind in _PAIR))

    def _product(self, name: str, x: str, weight: Floats, bias: Floats) -> str:
        """x @ weight.T + bias; weight as torch keeps it, (outputs, inputs)."""
        product = self._graph.add("MatMul", x, self._graph.constant(f"{name}.weight", weight.T), name=name)
        return self._graph.add("Add", product, self._graph.constant(f"{name}.bias", bias))


_PAIR = ("weight", "bias")
_CACHED = ("keys", "values")
