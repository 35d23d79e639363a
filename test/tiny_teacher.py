"""A tiny image model as an ONNX file with its declaration, and the same model in NumPy."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE, CELL, CHANNELS = 32, 8, 12
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


def weights(seed: int = 0) -> np.ndarray:
    """Filters that each see one cell of 8 x 8 pixels: (C, 3, 8, 8)."""
    return np.random.default_rng(seed).normal(0, 0.05, (CHANNELS, 3, CELL, CELL)).astype(np.float32)


def write_teacher(file: Path, seed: int = 0, shift: float = 0.0, pooled: bool = False, **declared: object) -> Path:
    """Write model and declaration; `shift` is added to a single weight, and None in `declared` leaves an entry out."""
    filters = weights(seed)
    filters[0, 0, 0, 0] += shift
    nodes = [
        helper.make_node("Conv", ["pictures", "filters"], ["cells"], strides=[CELL, CELL]),
        helper.make_node("Tanh", ["cells"], ["features"]),
        helper.make_node("ReduceMean", ["features", "axes"], ["mean"], keepdims=0),
    ]
    tensors = [numpy_helper.from_array(filters, "filters"), numpy_helper.from_array(np.array([2, 3]), "axes")]
    graph = helper.make_graph(
        nodes if pooled else nodes[:2],
        "tiny",
        [helper.make_tensor_value_info("pictures", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("mean" if pooled else "features", TensorProto.FLOAT, None)],
        tensors if pooled else tensors[:1],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, file)
    entries = {"name": "tiny", "side": SIDE, "mean": MEAN, "std": STD, "licence": "CC0-1.0", **declared}
    file.with_suffix(".json").write_text(json.dumps({k: v for k, v in entries.items() if v is not None}))
    return file


def features(picture: np.ndarray, seed: int = 0) -> np.ndarray:
    """What the model makes of a picture, cell by cell: (32, 32, 3) uint8 -> (4, 4, C)."""
    values = (picture / 255 - MEAN) / STD
    grid = SIDE // CELL
    cells = values.reshape(grid, CELL, grid, CELL, 3)
    return np.tanh(np.einsum("iajbk,ckab->ijc", cells, weights(seed)))
