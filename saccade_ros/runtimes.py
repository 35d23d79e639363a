"""Runtimes that can compute the encoder: where each is implemented, and what it computes. Nothing is imported here."""

from typing import NamedTuple


class Runtime(NamedTuple):
    """One runtime.

    Attributes:
        module, backend: module of saccade_ros.backends, and its class that implements the protocol Backend.
        precisions: arithmetics it can compute the encoder in, the reference first.
        export_format: format of the files that an export writes for it; "" if it runs checkpoints as they are.
    """

    module: str
    backend: str
    precisions: tuple[str, ...]
    export_format: str = ""


RUNTIMES = {
    "torch": Runtime("torch_backend", "TorchBackend", ("fp32", "bf16", "fp16", "int8")),
    "onnxruntime": Runtime("onnx_backend", "OnnxBackend", ("fp32", "fp16", "int8", "int8-static", "int4"), "onnx"),
    "tensorrt": Runtime("tensorrt_backend", "TensorRtBackend", ("fp32", "fp16", "bf16"), "tensorrt"),
}

PRECISIONS = tuple(dict.fromkeys(precision for runtime in RUNTIMES.values() for precision in runtime.precisions))
EXPORT_PRECISIONS = {r.export_format: r.precisions for r in RUNTIMES.values() if r.export_format}
