"""TensorRT (10.3 or later, 11, or TensorRT-RTX): the module, its engines, and running one as a CUDA graph.

The host's side has run on a stand-in for the driver (test/backends); no GPU was at hand for the rest.
"""

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from saccade_ros.backends.base import BackendError
from saccade_ros.backends.cuda_runtime import Cuda, describe_gpu
from saccade_ros.backends.interface import Steps, check_sizes, input_sizes, output_sizes
from saccade_ros.backends.manifest import Artifact, ManifestError
from saccade_ros.backends.window import ROWS, Contract, StepShape

MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")  # the last is what the RTX wheels install
LEAST_VERSION = (10, 3)


def load_tensorrt() -> Any:
    """Import the TensorRT module of this machine.

    Raises:
        BackendError: there is none, or too old a one.
    """
    for name in MODULES:
        try:
            trt = importlib.import_module(name)
        except ImportError:
            continue
        if name == "tensorrt" and _numbers(trt.__version__) < LEAST_VERSION:
            raise BackendError(
                f"TensorRT {trt.__version__} is too old: 10.3 brought strong typing of what is used here"
            )
        return trt
    raise BackendError(
        "TensorRT is not installed: on a Jetson it comes with JetPack (python3-libnvinfer), elsewhere "
        "pip install tensorrt, or tensorrt_rtx_cu13_bindings and tensorrt_rtx_cu13_libs"
    )


def describe_tensorrt(trt: Any) -> str:
    """Flavour and version of a TensorRT; engines of one do not load in another."""
    return f"{trt.__name__.removesuffix('_bindings')} {trt.__version__}"


def check_built_for(artifact: Artifact, trt: Any) -> None:
    """Raise ManifestError unless an engine was built by this TensorRT for this GPU."""
    here = {"tensorrt": describe_tensorrt(trt), "gpu": describe_gpu()}
    for what, found in here.items():
        wanted = artifact.built_for.get(what, "")
        portable = what == "gpu" and wanted == "none"  # TensorRT-RTX finishes such an engine on the GPU it meets
        if wanted != found and not portable:
            raise ManifestError(f"the engine was built for {what} {wanted!r}, here is {found!r}: export again here")


class Engine:
    """A deserialized engine; `bind` gives a callable with buffers of its own."""

    def __init__(self, trt: Any, file: Path, cuda: Cuda) -> None:
        self.trt, self.cuda, self.file = trt, cuda, file
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._logger)
        self.engine = self._runtime.deserialize_cuda_engine(file.read_bytes())
        if self.engine is None:
            raise BackendError(f"{file}: TensorRT {trt.__version__} cannot load this engine here: export again")
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        self.inputs = [n for n in names if self.engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        self.outputs = [n for n in names if n not in self.inputs]

    def check(self, shape: StepShape, contract: Contract, steps: Steps) -> None:
        """Raise ManifestError if an input or output is not of the sizes that the manifest says."""
        for what, names, wanted in (
            ("input", self.inputs, input_sizes(shape, steps)),
            ("output", self.outputs, output_sizes(shape, contract, steps)),
        ):
            found = {n: [ROWS if s == -1 else int(s) for s in self.engine.get_tensor_shape(n)] for n in names}
            check_sizes(self.file, what, found, {name: sizes for name, sizes in wanted.items() if name in found})

    def shape_of(self, name: str, rows: int = 0) -> tuple[int, ...]:
        """Sizes of an input or output, with `rows` where the engine leaves the number of rows open."""
        return tuple(rows if size == -1 else size for size in self.engine.get_tensor_shape(name))

    def bytes_of(self, name: str, rows: int = 0) -> int:
        """Memory of an input or output."""
        return int(np.prod(self.shape_of(name, rows))) * int(self.engine.get_tensor_dtype(name).itemsize)

    def alias_of(self, name: str) -> str | None:
        """The input whose buffer an output must share (KVCacheUpdate), if any."""
        find = getattr(self.engine, "get_aliased_input_tensor", None)
        return find(name) or None if find else None

    def bind(self, resident: dict[str, int] | None = None, rows: int = 0, profile: int = 0) -> "BoundEngine":
        """Give it buffers and an execution context; `resident` inputs and outputs stay on the GPU, uncopied.

        Args:
            rows, profile: number of rows, and the engine's profile of it, where the engine leaves it open.
        """
        return BoundEngine(self, resident or {}, rows, profile)


class BoundEngine:
    """An engine with fixed buffers: host inputs up, compute, host outputs down, replayed as one CUDA graph."""

    def __init__(self, engine: Engine, resident: dict[str, int], rows: int, profile: int) -> None:
        self._cuda, self._context = engine.cuda, engine.engine.create_execution_context()
        if rows:
            self._context.set_optimization_profile_async(profile, int(self._cuda.stream))
            for name in engine.inputs:
                self._context.set_input_shape(name, engine.shape_of(name, rows))
        self._device, self._host = dict(resident), {}
        for name in [*engine.inputs, *engine.outputs]:
            if name not in resident:
                dtype = engine.trt.nptype(engine.engine.get_tensor_dtype(name))
                self._host[name] = self._cuda.pinned(self, engine.shape_of(name, rows), dtype)
                self._device[name] = self._cuda.allocate(self, engine.bytes_of(name, rows))
            self._context.set_tensor_address(name, self._device[name])
        self._up = [name for name in engine.inputs if name in self._host]
        self._down = [name for name in engine.outputs if name in self._host]
        self._graph: Any = None

    def __call__(self, inputs: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Compute the outputs, by name; the next call overwrites them. The first runs eagerly, as TensorRT asks."""
        for name in self._up:
            self._host[name][...] = inputs[name]
        if self._graph is None:
            self._enqueue()
            self._cuda.synchronize()
            self._graph = self._cuda.capture(self, self._enqueue)
        else:
            self._cuda.launch(self._graph)
            self._cuda.synchronize()
        return {name: self._host[name] for name in self._down}

    def _enqueue(self) -> None:
        for name in self._up:
            self._cuda.upload(self._device[name], self._host[name])
        if not self._context.execute_async_v3(int(self._cuda.stream)):
            raise BackendError("TensorRT refused to run the step; its log says why")
        for name in self._down:
            self._cuda.download(self._host[name], self._device[name])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
