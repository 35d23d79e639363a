"""Graphs of a loaded torch encoder, as backends/graph makes them of any encoder's tensors."""

from saccade_ros.backends.graph import step
from saccade_ros.backends.graph.onnx_graph import MadeGraph
from saccade_ros.backends.interface import Steps
from saccade_ros.backends.window import Contract, StepShape
from saccade_ros.encoder.model import StreamingEncoder
from saccade_ros.encoder.weights import state_of


class ExportError(ValueError):
    """Export that cannot be made as requested. The message says why and the remedy."""


def step_shape(encoder: StreamingEncoder, batch: int = 1) -> StepShape:
    """Read the static sizes of an encoder's step."""
    areas, merge = encoder.areas, encoder.merging.merge
    return StepShape(encoder.spec, encoder.window, encoder.recompute, batch, merge, *areas.grid, areas.layers)


def build_embed(encoder: StreamingEncoder) -> MadeGraph:
    """Build the gate's front end."""
    return step.build_embed(encoder.spec, step.Weights(state_of(encoder)))


def build_step(
    encoder: StreamingEncoder,
    batch: int = 1,
    contract: Contract = "scatter",
    precision: str = "fp32",
    steps: Steps = "any",
) -> MadeGraph:
    """Build the cached step.

    Raises:
        What backends/graph/step.py raises.
    """
    state = {name: values for name, values in state_of(encoder).items() if not name.startswith("patch_embed.")}
    return step.build_step(step_shape(encoder, batch), step.Weights(state), contract, precision, steps)
