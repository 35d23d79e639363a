"""The few calls of the CUDA runtime that a step needs, by NVIDIA's own binding."""

import ctypes
import importlib
import weakref
from typing import Any

import numpy as np

from saccade_ros.backends.base import BackendError


class Cuda:
    """One CUDA stream, with memory, copies and graphs on it; errors become BackendError.

    What is taken for an owner is given back when the owner goes: a node may be configured and cleaned up for years.
    """

    def __init__(self) -> None:
        self._runtime = self.load()
        self.stream = self.check(self._runtime.cudaStreamCreate())
        weakref.finalize(self, self._runtime.cudaStreamDestroy, self.stream)
        self._kinds = self._runtime.cudaMemcpyKind

    @staticmethod
    def load() -> Any:
        """NVIDIA's binding of the runtime. Raises BackendError where it is not installed."""
        try:
            return importlib.import_module("cuda.bindings.runtime")
        except ImportError as missing:
            raise BackendError(
                "the tensorrt backend needs NVIDIA's CUDA binding: pip install cuda-bindings"
            ) from missing

    @staticmethod
    def check(answer: tuple[Any, ...]) -> Any:
        """Value in a call's answer. Raises BackendError with CUDA's name of the error."""
        error, *values = answer
        if int(error):
            raise BackendError(f"CUDA: {error.name}: is there an NVIDIA GPU with a driver for this CUDA version?")
        return values[0] if values else None

    def allocate(self, owner: object, nbytes: int) -> int:
        """Address of `nbytes` of device memory, freed with its owner."""
        address = int(self.check(self._runtime.cudaMalloc(nbytes)))
        weakref.finalize(owner, self._runtime.cudaFree, address)
        return address

    def pinned(self, owner: object, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """Page-locked host memory, which the GPU copies from and to on its own; freed with its owner."""
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = int(self.check(self._runtime.cudaHostAlloc(nbytes, 0)))
        weakref.finalize(owner, self._runtime.cudaFreeHost, address)
        return np.frombuffer((ctypes.c_byte * nbytes).from_address(address), dtype).reshape(shape)

    def upload(self, device: int, host: np.ndarray[Any, Any]) -> None:
        """Copy host memory to a device address, in the stream's order, as all calls below."""
        self._copy(device, host.ctypes.data, host.nbytes, self._kinds.cudaMemcpyHostToDevice)

    def download(self, host: np.ndarray[Any, Any], device: int) -> None:
        """Copy from a device address to host memory."""
        self._copy(host.ctypes.data, device, host.nbytes, self._kinds.cudaMemcpyDeviceToHost)

    def _copy(self, target: int, source: int, nbytes: int, kind: Any) -> None:
        self.check(self._runtime.cudaMemcpyAsync(target, source, nbytes, kind, self.stream))

    def copy_rows(self, target: int, pitch: int, source: int, source_pitch: int, width: int, rows: int) -> None:
        """Copy rows of `width` bytes between device arrays of different row lengths (pitches, in bytes)."""
        kind = self._kinds.cudaMemcpyDeviceToDevice
        copied = self._runtime.cudaMemcpy2DAsync(target, pitch, source, source_pitch, width, rows, kind, self.stream)
        self.check(copied)

    def synchronize(self) -> None:
        """Wait until all that was put on the stream is done."""
        self.check(self._runtime.cudaStreamSynchronize(self.stream))

    def capture(self, owner: object, work: Any) -> Any:
        """Record what `work` puts on the stream; return a graph to launch, destroyed with its owner."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.check(self._runtime.cudaStreamBeginCapture(self.stream, mode))
        work()
        graph = self.check(self._runtime.cudaStreamEndCapture(self.stream))
        executable = self.check(self._runtime.cudaGraphInstantiate(graph, 0))
        self.check(self._runtime.cudaGraphDestroy(graph))
        weakref.finalize(owner, self._runtime.cudaGraphExecDestroy, executable)
        return executable

    def launch(self, graph: Any) -> None:
        """Put a recorded graph on the stream."""
        self.check(self._runtime.cudaGraphLaunch(graph, self.stream))


def describe_gpu() -> str:
    """Name and compute capability of the GPU, or "none"."""
    try:
        properties = Cuda.check(Cuda.load().cudaGetDeviceProperties(0))
    except BackendError:
        return "none"
    return f"{properties.name.decode().strip(chr(0))} sm_{properties.major}{properties.minor}"


def can_run() -> bool:
    """True if there is a GPU, its driver and the binding to use it from here."""
    return describe_gpu() != "none"
