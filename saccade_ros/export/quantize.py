"""Smaller and faster forms of the exported step, by onnxruntime.quantization. Whether one is worth having is measured
afterwards (parity.py); nothing here decides it.

    int8          linear layers: QInt8 weights per channel, activations quantized at run time. QUInt8 weights are three
                  times slower on x86.
    int8-static   the same with activation ranges calibrated on a clip, as explicit Q/DQ: what TensorRT wants.
    int4          weights only, blocks of 32, computed as int8 or fp32: for memory, not speed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from saccade_ros.backends.graph.onnx_graph import LARGE_BYTES
from saccade_ros.backends.graph.step import linear_nodes

QUANTIZED = ("int8", "int8-static", "int4")
_INT4_BLOCK = 32


class Feeds(CalibrationDataReader):  # type: ignore[misc]  # untyped upstream
    """Inputs of consecutive steps, as calibration takes them."""

    def __init__(self, feeds: Iterator[dict[str, Any]]) -> None:
        self._feeds = feeds

    def get_next(self) -> dict[str, Any] | None:
        """Return the next step's inputs, or None."""
        return next(self._feeds, None)


def quantize(precision: str, step: Path, target: Path, depth: int, feeds: Iterator[dict[str, Any]]) -> None:
    """Write the quantized form of an fp32 step.

    Args:
        step: the fp32 graph; `target`'s weights go beside it as target.name + ".data".
        depth: layers of the encoder.
        feeds: inputs of steps on the calibration clip; read by int8-static only.
    """
    if precision == "int8":
        quantize_dynamic(
            step,
            target,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=linear_nodes(depth),
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
        )
    elif precision == "int8-static":
        _quantize_static(step, target, depth, feeds)
    else:
        _quantize_weights(step, target, depth)


def _quantize_static(step: Path, target: Path, depth: int, feeds: Iterator[dict[str, Any]]) -> None:
    quantize_static(
        step,
        target,
        Feeds(feeds),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul"],
        nodes_to_quantize=linear_nodes(depth),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        use_external_data_format=True,
        extra_options={"MatMulConstBOnly": True},
    )


def _quantize_weights(step: Path, target: Path, depth: int) -> None:
    # Only here: importing it makes Python's root logger print every message of any library.
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    linear = set(linear_nodes(depth))
    model = onnx.load(step)
    others = [node.name for node in model.graph.node if node.name not in linear]
    config = DefaultWeightOnlyQuantConfig(block_size=_INT4_BLOCK, is_symmetric=True, accuracy_level=4)
    quantizer = MatMulNBitsQuantizer(model, nodes_to_exclude=others, algo_config=config)
    quantizer.process()
    made, name = quantizer.model.model, f"{target.name}.data"
    onnx.save_model(made, str(target), save_as_external_data=True, location=name, size_threshold=LARGE_BYTES)
