"""Nodes and constants of an ONNX graph in the making, whose floats are computed in one precision."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from saccade_ros.backends.interface import DESCRIPTION
from saccade_ros.backends.window import Contract

VERSIONS = {"host": (20, 10), "scatter": (24, 12)}  # opset and IR: 20 brought Gelu, 24 TensorScatter
LARGE_BYTES = 1024  # a constant of as many is kept beside the graph
_ALIGNMENT = 64  # of each in a file, so that it can be mapped and read as it is
TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@dataclass(frozen=True)
class MadeGraph:
    """Graph whose large constants are beside it: a protobuf holds at most 2 GB, and would be a copy of them.

    Attributes:
        model: it names each large constant as external data, in a file of the constant's own name.
        constants: the large ones by name, in memory, each contiguous.
    """

    model: onnx.ModelProto
    constants: Mapping[str, npt.NDArray[Any]]

    def save(self, target: Path) -> None:
        """Write the graph, and its large constants into one file beside it, `target`'s name and .data."""
        model, data = self._copy(), target.with_name(f"{target.name}.data")
        with data.open("wb") as opened:
            for tensor in _large(model):
                opened.write(bytes(-opened.tell() % _ALIGNMENT))
                values = self.constants[tensor.name]
                _point(tensor, data.name, opened.tell(), values.nbytes)
                opened.write(values.view(np.uint8).data)
        target.write_bytes(model.SerializeToString())

    def whole(self) -> onnx.ModelProto:
        """Make the graph with all constants inside, for small ones."""
        model = self._copy()
        for tensor in _large(model):
            tensor.CopyFrom(numpy_helper.from_array(self.constants[tensor.name], tensor.name))
        return model

    def _copy(self) -> onnx.ModelProto:
        copied = onnx.ModelProto()
        copied.CopyFrom(self.model)
        return copied


def _large(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]


def _point(tensor: onnx.TensorProto, file: str, offset: int, size: int) -> None:
    """Say where the tensor's bytes are."""
    del tensor.external_data[:]
    for key, said in (("location", file), ("offset", offset), ("length", size)):
        tensor.external_data.add(key=key, value=str(said))


class OnnxGraph:
    """Nodes and constants; `choose` adds those of a branch."""

    def __init__(self, precision: str = "fp32") -> None:
        self.type = TYPES[precision]
        self._numbers = helper.tensor_dtype_to_np_dtype(self.type)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.large: dict[str, npt.NDArray[Any]] = {}
        self._shared: dict[tuple[Any, ...], str] = {}
        self._names = count()

    def add(self, operator: str, *inputs: str, name: str = "", output: str = "", **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        output = output or self._new_name()
        self.nodes.append(helper.make_node(operator, inputs, [output], name or f"n_{output}", **attributes))
        return output

    def split(self, x: str, *sizes: int, axis: int = -1) -> list[str]:
        """Add a Split of an axis into parts of these sizes."""
        return self.split_by(x, self.ints(*sizes), len(sizes), axis)

    def split_by(self, x: str, sizes: str, count: int, axis: int) -> list[str]:
        """Add a Split of an axis into so many parts, of sizes that are known when the graph runs."""
        parts = [self._new_name() for _ in range(count)]
        self.nodes.append(helper.make_node("Split", [x, sizes], parts, f"n_{parts[0]}", axis=axis))
        return parts

    def largest(self, x: str, number: int) -> str:
        """Add a TopK: places of the largest values along the last axis, largest first, of equal ones the first."""
        values, places = self._new_name(), self._new_name()
        self.nodes.append(helper.make_node("TopK", [x, self.ints(number)], [values, places], f"n_{values}", axis=-1))
        return places

    def choose(self, condition: str, then: Callable[[], list[str]], otherwise: Callable[[], list[str]]) -> list[str]:
        """Add an If: what `then` or `otherwise` adds is computed, as the condition, a bool, says when the graph runs.

        Each returns as many values in the graph's precision; constants stay with the whole graph.
        """
        branches = {"then_branch": self._branch(then), "else_branch": self._branch(otherwise)}
        outputs = [self._new_name() for _ in branches["then_branch"].output]
        self.nodes.append(helper.make_node("If", [condition], outputs, f"n_{outputs[0]}", **branches))
        return outputs

    def _branch(self, build: Callable[[], list[str]]) -> onnx.GraphProto:
        outer, self.nodes = self.nodes, []
        outputs = [helper.make_tensor_value_info(name, self.type, None) for name in build()]
        graph = helper.make_graph(self.nodes, self._new_name(), [], outputs)
        self.nodes = outer
        return graph

    def _new_name(self) -> str:
        return f"v{next(self._names)}"

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """Add a constant, floats in the graph's precision; returns its name.

        Raises:
            OverflowError: that precision does not hold a value; names both.
        """
        if value.dtype != np.float32:
            return self.exact(name, value)
        with np.errstate(over="ignore"):
            stored = value.astype(self._numbers, copy=False)
        if not np.isfinite(stored.astype(np.float32, copy=False)).all():
            raise OverflowError(f"{name} reaches {np.abs(value).max():g}, more than {stored.dtype} holds")
        return self.exact(name, stored)

    def exact(self, name: str, value: npt.NDArray[Any]) -> str:
        """Add a constant in its own precision; returns its name."""
        value = np.asarray(value, order="C")
        if value.nbytes < LARGE_BYTES:
            self.constants.append(numpy_helper.from_array(value, name))
            return name
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        tensor = TensorProto(name=name, data_type=kind, dims=value.shape, data_location=TensorProto.EXTERNAL)
        _point(tensor, name, 0, value.nbytes)
        self.constants.append(tensor)
        self.large[name] = value
        return name

    def ints(self, *values: int) -> str:
        """Add a small int64 constant, or find the same one; returns its name."""
        if values not in self._shared:
            self._shared[values] = self.constant(f"i{'_'.join(map(str, values))}", np.array(values, np.int64))
        return self._shared[values]

    def reshape(self, x: str, *shape: int) -> str:
        """Add a Reshape; -1 stands for what is left."""
        return self.add("Reshape", x, self.ints(*shape))

    def cast_own(self, x: str) -> str:
        """Cast fp32 to the graph's precision."""
        return x if self.type == TensorProto.FLOAT else self.add("Cast", x, to=self.type)

    def cast_fp32(self, x: str) -> str:
        """Cast from the graph's precision to fp32."""
        return x if self.type == TensorProto.FLOAT else self.add("Cast", x, to=TensorProto.FLOAT)

    def cast_bool(self, x: str) -> str:
        """Cast bools to fp32: 1 for True, 0 for False."""
        return self.add("Cast", x, to=TensorProto.FLOAT)

    def cast_output(self, x: str, output: str) -> str:
        """Cast to an fp32 output of the graph."""
        return self.add("Cast", x, to=TensorProto.FLOAT, output=output)

    def model(
        self,
        name: str,
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        description: str = "",
        contract: Contract = "host",
    ) -> MadeGraph:
        """Make the graph of all that was added; it carries the description (backends/interface.py)."""
        opset, ir = VERSIONS[contract]
        graph = helper.make_graph(self.nodes, name, list(inputs), list(outputs), self.constants)
        imports = [helper.make_opsetid("", opset)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=ir, producer_name="saccade_ros")
        helper.set_model_props(model, {DESCRIPTION: description})
        large, self.large = self.large, {}  # its own from here on: a builder, full of cycles, is not freed at once
        return MadeGraph(model, large)
