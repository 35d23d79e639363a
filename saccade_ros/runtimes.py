"""Runtimes that can compute the encoder: where each is implemented, and what it computes. Nothing is imported here."""

from typing import NamedTuple


class Runtime(NamedTuple):
    """One runtime.

    Attributes:
        module, backend: module of saccade_ros.backends, and its class that implements the protocol Backend.
        package: Python package that it needs.
        precisions: arithmetics it can compute the encoder in, the reference first.
        devices: values of backend.device that it knows.
        export_format: format of the files that an export writes for it; "" if it runs checkpoints only.
        checkpoint_precisions: arithmetics it can compute a checkpoint in as it is; none if it runs exports only.
    """

    module: str
    backend: str
    package: str
    precisions: tuple[str, ...]
    devices: tuple[str, ...]
    export_format: str = ""
    checkpoint_precisions: tuple[str, ...] = ()


_OF_TORCH = ("fp32", "bf16", "fp16", "int8")
_OF_ONNX_RUNTIME = ("fp32", "fp16", "int8", "int8-static", "int4")

RUNTIMES = {
    "torch": Runtime(
        "torch_backend", "TorchBackend", "torch", _OF_TORCH, ("cpu", "cuda"), checkpoint_precisions=_OF_TORCH
    ),
    "onnxruntime": Runtime(
        "onnx_backend", "OnnxBackend", "onnxruntime", _OF_ONNX_RUNTIME, ("cpu", "cuda"), "onnx", ("fp32", "fp16")
    ),
    "openvino": Runtime(
        "openvino_backend",
        "OpenVinoBackend",
        "openvino",
        ("fp32", "bf16", "int8", "int8-static"),
        ("cpu", "gpu", "npu"),
        "openvino",
        ("fp32", "bf16"),
    ),
    "tensorrt": Runtime(
        "tensorrt_backend", "TensorRtBackend", "tensorrt", ("fp32", "fp16", "bf16"), ("cuda",), "tensorrt"
    ),
}

PRECISIONS = tuple(dict.fromkeys(precision for runtime in RUNTIMES.values() for precision in runtime.precisions))
DEVICES = tuple(dict.fromkeys(device for runtime in RUNTIMES.values() for device in runtime.devices))
EXPORT_PRECISIONS = {r.export_format: r.precisions for r in RUNTIMES.values() if r.export_format}
