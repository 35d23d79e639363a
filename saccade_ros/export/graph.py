"""ONNX graph of the cached step, made node by node from a loaded encoder's own tensors.

One call encodes the newest r tubelets of B streams. All shapes are static; K and the tables are backends/window.py's:

    patches (B, r*S, D)                         patch embeddings of the block, newest last
    query_cos, query_sin, key_cos, key_sin      (B, r*S, K): rotations of the rows
    key_offset (B, r*S, K)                      validity of the block's tubelets; only for r > 1
    slots (r, B)                                slots of the block's tubelets
    keys_i (B, A, W*S, K), values_i (B, A, W*S, E)      the ring, of each layer; invalid slots say so themselves
->  tokens (B, r*S, D), means (B, r, D)         after the final norm; a tubelet's embedding is its mean

Keys and values have the precision of the graph, all else is fp32. The block's come by one of two contracts:

    host     keys_new_i, values_new_i (B, A, r*S, .): the caller writes them into its slots. Plain operators only.
    scatter  keys_out_i, values_out_i: the ring itself, updated by TensorScatter. Bind the input's own buffer as the
             output and nothing is copied (ONNX Runtime's CPU provider; TensorRT's KVCacheUpdate).

Why by hand and not traced: every tensor of the encoder must be used, or the export is refused, so that a model with a
new part cannot be exported without it; linear nodes keep their names, which is what quantization selects by.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from saccade_ros.backends.window import StepShape
from saccade_ros.encoder.model import StreamingEncoder
from saccade_ros.encoder.positions import head_parts, pair_partners

Contract = Literal["host", "scatter"]
VERSIONS = {"host": (20, 10), "scatter": (24, 12)}  # opset and IR: 20 brought Gelu, 24 TensorScatter
TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
LINEARS = ("query", "key", "value", "proj", "fc1", "fc2")


class ExportError(ValueError):
    """Encoder that cannot be exported, or not as requested. The message says why and the remedy."""


def step_shape(encoder: StreamingEncoder, batch: int = 1) -> StepShape:
    """Read the static sizes of an encoder's step."""
    return StepShape(encoder.spec, encoder.window, encoder.recompute, batch)


def linear_nodes(depth: int) -> list[str]:
    """Names of the linear layers' MatMul nodes, which quantization selects."""
    return [f"layer{i}.{name}" for i in range(depth) for name in LINEARS]


@dataclass(frozen=True)
class _Weights:
    """An encoder's tensors as NumPy arrays; remembers which were used."""

    tensors: dict[str, npt.NDArray[np.float32]]
    used: set[str]

    @classmethod
    def of(cls, encoder: StreamingEncoder) -> "_Weights":
        """Copy an encoder's tensors in fp32."""
        return cls({name: t.float().cpu().numpy() for name, t in encoder.state_dict().items()}, set())

    def take(self, name: str) -> npt.NDArray[np.float32]:
        """Look up a tensor and note that it is used."""
        self.used.add(name)
        return self.tensors[name]

    def refuse_unused(self, elsewhere: str) -> None:
        """Raise ExportError if a tensor was not used, unless its name starts with `elsewhere`."""
        unused = sorted(name for name in set(self.tensors) - self.used if not name.startswith(elsewhere))
        if unused:
            raise ExportError(
                f"the encoder has tensors that the exported step does not compute with: {', '.join(unused[:3])}; "
                "this kind of checkpoint runs on the torch backend only"
            )


class _Graph:
    """Nodes and constants of a graph in the making; floats are computed in one precision."""

    def __init__(self, precision: str = "fp32") -> None:
        self.type = TYPES[precision]
        self._numbers = helper.tensor_dtype_to_np_dtype(self.type)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._shared: dict[tuple[Any, ...], str] = {}

    def add(self, operator: str, *inputs: str, name: str = "", output: str = "", **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        output = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name or f"n{len(self.nodes)}", **attributes))
        return output

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """Add a constant, floats in the graph's precision; returns its name."""
        if value.dtype == np.float32:
            value = value.astype(self._numbers)
        self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def ints(self, *values: int) -> str:
        """Add a small int64 constant, or find the same one; returns its name."""
        if values not in self._shared:
            self._shared[values] = self.constant(f"i{'_'.join(map(str, values))}", np.array(values, np.int64))
        return self._shared[values]

    def reshape(self, x: str, *shape: int) -> str:
        """Add a Reshape; -1 stands for what is left."""
        return self.add("Reshape", x, self.ints(*shape))

    def cast_input(self, x: str) -> str:
        """Cast an fp32 input to the graph's precision."""
        return x if self.type == TensorProto.FLOAT else self.add("Cast", x, to=self.type)

    def cast_output(self, x: str, output: str) -> str:
        """Cast to an fp32 output of the graph."""
        return self.add("Cast", x, to=TensorProto.FLOAT, output=output)

    def model(
        self, name: str, inputs: Sequence[Any], outputs: Sequence[Any], contract: Contract = "host"
    ) -> onnx.ModelProto:
        """Make the model of all that was added."""
        opset, ir = VERSIONS[contract]
        graph = helper.make_graph(self.nodes, name, list(inputs), list(outputs), self.constants)
        imports = [helper.make_opsetid("", opset)]
        return helper.make_model(graph, opset_imports=imports, ir_version=ir, producer_name="saccade_ros")


def build_embed(encoder: StreamingEncoder) -> onnx.ModelProto:
    """Build the gate's front end: pixels (2, 3, H, H) -> patches (S, D), as StreamingEncoder.embed does it."""
    spec, weights, graph = encoder.spec, _Weights.of(encoder), _Graph()
    g, p = spec.grid, spec.patch_size
    cells = graph.reshape("pixels", spec.tubelet_size, 3, g, p, g, p)  # (2, 3, g, p, g, p)
    moved = graph.add("Transpose", cells, perm=[2, 4, 1, 0, 3, 5])  # (g, g, 3, 2, p, p)
    flat = graph.reshape(moved, spec.tokens, spec.patch_values)
    weight = graph.constant("patch_embed.weight", weights.take("patch_embed.weight").T)
    product = graph.add("MatMul", flat, weight, name="patch_embed")
    graph.add("Add", product, graph.constant("patch_embed.bias", weights.take("patch_embed.bias")), output="patches")
    patches = [spec.tokens, spec.width]
    return graph.model("embed", [_tensor("pixels", spec.pixels_shape)], [_tensor("patches", patches)])


def build_step(
    encoder: StreamingEncoder, batch: int = 1, contract: Contract = "scatter", precision: str = "fp32"
) -> onnx.ModelProto:
    """Build the cached step in fp32, fp16 or bf16; see the module's head for inputs and outputs.

    Raises:
        ExportError: the encoder has a part that this graph does not compute.
    """
    shape, weights, graph = step_shape(encoder, batch), _Weights.of(encoder), _Graph(precision)
    layers = _StepBuilder(shape, weights, graph, contract)
    x = graph.cast_input("patches")
    for i in range(shape.spec.depth):
        x = layers.layer(i, x)
    layers.outputs(x)
    weights.refuse_unused(elsewhere="patch_embed.")
    return graph.model("step", step_inputs(shape, graph.type), step_outputs(shape, contract, graph.type), contract)


def step_inputs(shape: StepShape, cached: int = TensorProto.FLOAT) -> list[onnx.ValueInfoProto]:
    """Names, types and shapes of a step's inputs."""
    rows = [shape.batch, shape.rows]
    tables = ["query_cos", "query_sin", "key_cos", "key_sin"] + ["key_offset"] * (shape.recompute > 1)
    ring = [(f"keys_{i}", shape.keys) for i in range(shape.spec.depth)]
    ring += [(f"values_{i}", shape.values) for i in range(shape.spec.depth)]
    return [
        _tensor("patches", [*rows, shape.spec.width]),
        *(_tensor(name, [*rows, shape.key_width]) for name in tables),
        helper.make_tensor_value_info("slots", TensorProto.INT64, [shape.recompute, shape.batch]),
        *(_tensor(name, sizes, cached) for name, sizes in ring),
    ]


def step_outputs(shape: StepShape, contract: Contract, cached: int = TensorProto.FLOAT) -> list[onnx.ValueInfoProto]:
    """Names, types and shapes of a step's outputs."""
    spec = shape.spec
    suffix, length = ("out", shape.window * spec.tokens) if contract == "scatter" else ("new", shape.rows)
    ring = [
        (f"{kind}_{suffix}_{i}", [shape.batch, spec.heads, length, width])
        for kind, width in (("keys", shape.key_width), ("values", spec.head_width))
        for i in range(spec.depth)
    ]
    return [
        _tensor("tokens", [shape.batch, shape.rows, spec.width]),
        _tensor("means", [shape.batch, shape.recompute, spec.width]),
        *(_tensor(name, sizes, cached) for name, sizes in ring),
    ]


def _tensor(name: str, shape: Sequence[int], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


class _StepBuilder:
    """Writer of the step's layers into a graph."""

    def __init__(self, shape: StepShape, weights: _Weights, graph: _Graph, contract: Contract) -> None:
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
        names = ["query_cos", "query_sin", "key_cos", "key_sin"] + ["key_offset"] * (shape.recompute > 1)
        self._tables = {
            name: graph.reshape(graph.cast_input(name), shape.batch, 1, shape.rows, shape.key_width) for name in names
        }
        self._slots = [self._slot(j) for j in range(shape.recompute)]

    def layer(self, i: int, x: str) -> str:
        """Write layer i: (B, r*S, D) -> (B, r*S, D)."""
        add = self._graph.add
        x = add("Add", x, self._attention(i, self._norm(f"layers.{i}.norm1", x)))
        hidden = self._linear(f"layer{i}.fc1", f"layers.{i}.fc1", self._norm(f"layers.{i}.norm2", x))
        return add("Add", x, self._linear(f"layer{i}.fc2", f"layers.{i}.fc2", add("Gelu", hidden)))

    def outputs(self, x: str) -> None:
        """Write the final norm, and each tubelet's mean."""
        shape, graph = self._shape, self._graph
        tokens = graph.cast_output(self._norm("norm", x), "tokens")
        by_tubelet = graph.reshape(tokens, shape.batch, shape.recompute, self._spec.tokens, self._spec.width)
        graph.add("ReduceMean", by_tubelet, graph.ints(2), keepdims=0, output="means")

    def _attention(self, i: int, x: str) -> str:
        add, shape = self._graph.add, self._shape
        query, key, value = (self._heads(part) for part in self._projections(i, x))
        query = add("Add", self._rotate(query, "query"), self._query_validity)  # (B, A, r*S, K)
        key = self._rotate(key, "key")
        if "key_offset" in self._tables:
            key = add("Add", key, self._tables["key_offset"])
        keys, values = self._store("keys", i, key), self._store("values", i, value)  # (B, A, W*S, K or E)
        # Not the Attention operator: TensorRT's wants values as wide as keys, and ONNX Runtime's is no faster. The
        # scale is in the query's tables.
        scores = add("MatMul", query, add("Transpose", keys, perm=[0, 1, 3, 2]))  # (B, A, r*S, W*S)
        out = add("MatMul", add("Softmax", scores, axis=-1), values)  # (B, A, r*S, E)
        joined = self._graph.reshape(
            add("Transpose", out, perm=[0, 2, 1, 3]), shape.batch, shape.rows, self._spec.width
        )
        return self._linear(f"layer{i}.proj", f"layers.{i}.attention.proj", joined)

    def _projections(self, i: int, x: str) -> list[str]:
        """Queries, keys and values of a block, (B, r*S, D) each."""
        weight, bias = (self._weights.take(f"layers.{i}.attention.qkv.{kind}") for kind in ("weight", "bias"))
        parts = zip(LINEARS[:3], np.split(weight, 3), np.split(bias, 3), strict=True)
        return [self._product(f"layer{i}.{name}", x, w, b) for name, w, b in parts]

    def _heads(self, x: str) -> str:
        """(B, r*S, D) -> (B, A, r*S, E)."""
        shape, spec = self._shape, self._spec
        split = self._graph.reshape(x, shape.batch, shape.rows, spec.heads, spec.head_width)
        return self._graph.add("Transpose", split, perm=[0, 2, 1, 3])

    def _rotate(self, x: str, what: str) -> str:
        """(B, A, r*S, E) -> (B, A, r*S, K), laid out and rotated as window.py says."""
        add = self._graph.add
        own = add("Mul", add("MatMul", x, self._spread), self._tables[f"{what}_cos"])
        partner = add("Mul", add("MatMul", x, self._spread_partner), self._tables[f"{what}_sin"])
        return add("Add", own, partner)

    def _store(self, kind: str, i: int, new: str) -> str:
        """The ring with the block's part written: (B, A, W*S, .)."""
        if self._contract == "host":
            self._graph.add("Identity", new, output=f"{kind}_new_{i}")
        ring = f"{kind}_{i}"
        for j, (slot, block) in enumerate(zip(self._slots, self._tubelets(new), strict=True)):
            last = j == self._shape.recompute - 1
            ring = self._write(ring, block, slot, f"{kind}_out_{i}" if last and self._contract == "scatter" else "")
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

    def _slot(self, j: int) -> str:
        """Slot of the j-th tubelet: as TensorScatter takes it (B,), or True at its place (B, 1, W, 1, 1)."""
        graph, shape = self._graph, self._shape
        slot = graph.add("Gather", "slots", graph.constant(f"tubelet{j}", np.array(j, np.int64)))  # (B,)
        if self._contract == "scatter":
            return graph.add("Mul", slot, graph.ints(self._spec.tokens))
        every = graph.reshape(graph.ints(*range(shape.window)), 1, 1, shape.window, 1, 1)
        return graph.add("Equal", graph.reshape(slot, shape.batch, 1, 1, 1, 1), every)

    def _write(self, ring: str, block: str, slot: str, output: str) -> str:
        """(B, A, W*S, .) with one slot replaced by (B, A, S, .)."""
        graph, shape, spec = self._graph, self._shape, self._spec
        if self._contract == "scatter":
            return graph.add("TensorScatter", ring, block, slot, axis=2, output=output)
        by_slot = graph.reshape(ring, shape.batch, spec.heads, shape.window, spec.tokens, -1)
        one = graph.reshape(block, shape.batch, spec.heads, 1, spec.tokens, -1)
        written = graph.add("Where", slot, one, by_slot)  # (B, A, W, S, .)
        return graph.reshape(written, shape.batch, spec.heads, shape.window * spec.tokens, -1)

    def _norm(self, module: str, x: str) -> str:
        names = [self._graph.constant(f"{module}.{kind}", self._weights.take(f"{module}.{kind}")) for kind in _PAIR]
        return self._graph.add("LayerNormalization", x, *names, axis=-1, epsilon=self._spec.norm_eps)

    def _linear(self, name: str, module: str, x: str) -> str:
        return self._product(name, x, *(self._weights.take(f"{module}.{kind}") for kind in _PAIR))

    def _product(self, name: str, x: str, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]) -> str:
        """x @ weight.T + bias; weight as torch keeps it, (outputs, inputs)."""
        product = self._graph.add("MatMul", x, self._graph.constant(f"{name}.weight", weight.T), name=name)
        return self._graph.add("Add", product, self._graph.constant(f"{name}.bias", bias))


_PAIR = ("weight", "bias")
