"""State of an encoder: its tensors in NumPy and fp32, under the names that torch's StreamingEncoder has for them."""

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from saccade_ros.encoder.spec import ModelSpec
from saccade_ros.encoder.tensors import Floats

State = Mapping[str, Floats]


def allocate_state(spec: ModelSpec) -> dict[str, Floats]:
    """Allocate the tensors of an encoder of these sizes, to be filled."""
    return {name: np.empty(shape, np.float32) for name, shape in _shapes(spec)}


def shapes_alone(spec: ModelSpec) -> dict[str, Floats]:
    """Make the tensors of an encoder of these sizes, of which each has a shape only."""
    return {name: shape_alone(*shape) for name, shape in _shapes(spec)}


def shape_alone(*shape: int) -> Floats:
    """Make a tensor that has a shape only: it takes no memory and cannot be written."""
    return np.broadcast_to(np.float32(0), shape)


def _shapes(spec: ModelSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = spec.width
    yield "patch_embed.weight", (width, spec.patch_values)
    yield "patch_embed.bias", (width,)
    linears = {"attention.qkv": (3 * width, width), "attention.proj": (width, width)}
    linears |= {"fc1": (spec.mlp_width, width), "fc2": (width, spec.mlp_width)}
    for i in range(spec.depth):
        for name in ("norm1", "norm2"):
            yield f"layers.{i}.{name}.weight", (width,)
            yield f"layers.{i}.{name}.bias", (width,)
        for name, (outputs, inputs) in linears.items():
            yield f"layers.{i}.{name}.weight", (outputs, inputs)
            yield f"layers.{i}.{name}.bias", (outputs,)
    yield "norm.weight", (width,)
    yield "norm.bias", (width,)


def fingerprint(state: State) -> str:
    """Compute the SHA-256 over names and values of all tensors, as a hex digest."""
    digest = hashlib.sha256()
    for name, values in sorted(state.items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
