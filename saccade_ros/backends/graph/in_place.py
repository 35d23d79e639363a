"""Caches updated in place: whether the ONNX Runtime that is installed can."""

import functools
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnx import TensorProto, helper

from saccade_ros.backends.base import BackendError
from saccade_ros.backends.graph.onnx_graph import VERSIONS
from saccade_ros.backends.onnx_backend import open_session
from saccade_ros.config import BackendConfig


@functools.cache
def has_in_place_caches() -> bool:
    """Tell whether it computes TensorScatter (opset 24), by asking it to: 1.24 knows the name alone."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "scatter.onnx"
        onnx.save(_scatter_model(), file)
        try:
            open_session(file, BackendConfig(device="cpu"), "cpu")
        except BackendError:
            return False
    return True


def _scatter_model() -> onnx.ModelProto:
    """Make the smallest model that updates a cache in place."""
    ring, block, updated = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 1, 1]) for name in ("ring", "block", "updated")
    )
    slot = helper.make_tensor_value_info("slot", TensorProto.INT64, [1])
    scatter = helper.make_node("TensorScatter", ["ring", "block", "slot"], ["updated"], axis=2)
    graph = helper.make_graph([scatter], "scatter", [ring, block, slot], [updated])
    opset, ir = VERSIONS["scatter"]
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
