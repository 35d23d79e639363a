"""Runtimes that can compute the encoder: where each is implemented, and what it computes. Nothing is imported here."""

from typing import NamedTuple


class Runtime(NamedTuple):
    """One runtime.

    Attributes:
        module, backend: module of saccade_ros.backends, and its class that implements the protocol Backend.
        precisions: arithmetics it can compute the encoder in, the reference first.
        export_format: format of the files that an export writes for it; "" if it runs checkpoints only.
        checkpoint_precisions: arithmetics it can compute a checkpoint in as it is; none if it runs exports only.
    """

    module: str
    backend: str
    precisions: tuple[str, ...]
    export_format: str = ""
    checkpoint_precisions: tuple[str, ...] = ()


_OF_TORCH = ("fp32", "bf16", "fp16", "int8")
_OF_ONNX_RUNTIME = ("fp32", "fp16", "int8", "int8-static", "int4")

RUNTIMES = {
    "torch": Runtime("torch_backend", "TorchBackend", _OF_TORCH, checkpoint_precisions=_OF_TORCH),
    "onnxruntime": Runtime("onnx_backend", "OnnxBackend", _OF_ONNX_RUNTIME, "onnx", ("fp32", "fp16")),
    "tensorrt": Runtime("tensorrt_backend", "TensorRtBackend", ("fp32", "fp16", "bf16"), "tensorrt"),
}

PRECISIONS = tuple(dict.fromkeys(precision for runtime in RUNTIMES.values() for precision in runtime.precisions))
EXPORT_PRECISIONS = {r.export_format: r.precisions for r in RUNTIMES.values() if r.export_format}
