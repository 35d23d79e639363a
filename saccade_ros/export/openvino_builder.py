"""OpenVINO's own files of the step (.xml, .bin), quantized by NNCF. Neither is needed to run them but OpenVINO itself.

fp32, bf16      the same files; bf16 is how the processor computes them
int8            linear layers: int8 weights per channel; activations are quantized at run time where the chip can
int8-static     the same with activation ranges calibrated on a clip
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openvino as ov

from saccade_ros.backends.graph.onnx_graph import MadeGraph
from saccade_ros.backends.graph.step import linear_nodes
from saccade_ros.backends.interface import DESCRIPTION, Steps, describe_embed, describe_step
from saccade_ros.backends.manifest import Artifact
from saccade_ros.backends.openvino_backend import compile_settings, read_made, shared_core
from saccade_ros.encoder.model import StreamingEncoder
from saccade_ros.export.graph import ExportError, build_embed, build_step, step_shape

Feeds = Callable[[], Iterator[dict[str, Any]]]


def build_artifact(encoder: StreamingEncoder, batch: int, precision: str, folder: Path, feeds: Feeds) -> Artifact:
    """Write the step and its front end below `folder`.

    Args:
        feeds: makes the inputs of steps on the calibration clip, from the start at each call.

    Raises:
        ExportError: NNCF is not installed. BackendError: this processor does not have the precision.
    """
    shape, place = step_shape(encoder, batch), folder / f"openvino-{precision}"
    place.mkdir()
    compile_settings(shared_core(), "CPU", precision, 0)  # a precision that cannot be measured here is refused first
    steps: Steps = "sparse" if shape.can_be_sparse else "dense"
    step = _convert(build_step(encoder, batch, "host", steps=steps), describe_step(shape, "host"))
    if precision.startswith("int8"):
        step = _quantize(precision, step, shape.spec.depth, feeds)
    files: dict[str, str] = {}
    for role, graph in (("embed", _convert(build_embed(encoder), describe_embed(shape.spec))), ("step", step)):
        ov.save_model(graph, place / f"{role}.xml", compress_to_fp16=False)
        files |= {role: f"{place.name}/{role}.xml", f"{role}_weights": f"{place.name}/{role}.bin"}
    return Artifact("openvino", precision, "host", files)


def _convert(made: MadeGraph, description: str) -> ov.Model:
    """Read a graph of ours, with the description that it carries."""
    graph = read_made(shared_core(), made)
    graph.set_rt_info(description, [DESCRIPTION])
    return graph


def _quantize(precision: str, step: ov.Model, depth: int, feeds: Feeds) -> ov.Model:
    try:
        import nncf  # only here: an extra of its own
    except ImportError:
        raise ExportError("NNCF is not installed: pip install saccade_ros[openvino-export]") from None
    nncf.set_log_level(logging.ERROR)  # else a line for each operator that it leaves as it is
    others = nncf.IgnoredScope(names=_all_but_linear(step, depth), validate=False)
    if precision == "int8":
        return nncf.compress_weights(step, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=others)
    # Smoothing costs more than it saves (docs/export.md), and corrected biases change nothing.
    off = nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    return nncf.quantize(
        step,
        nncf.Dataset(_Restarting(feeds)),
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=others,
        advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=off, disable_bias_correction=True),
    )


def _all_but_linear(step: ov.Model, depth: int) -> list[str]:
    """Names of all operators but the linear layers' products; the constants that these multiply are no operators."""
    linear = set(linear_nodes(depth))
    operators = [node for node in step.get_ops() if node.get_type_name() != "Constant"]
    return [name for name in (node.get_friendly_name() for node in operators) if name not in linear]


@dataclass(frozen=True)
class _Restarting:
    """Data that NNCF reads more than once."""

    feeds: Feeds

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.feeds()
