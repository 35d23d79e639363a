"""The exported step as a TensorRT engine (10.3 or later, 11, or TensorRT-RTX), replayed as one CUDA graph.

An engine is made by `saccade export`, never here: a node that builds at start keeps a robot waiting for minutes. Of
this file the host's side has run, on a stand-in for the driver (test/backends); no GPU was at hand for the rest.
"""

import ctypes
import importlib
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from saccade_ros.backends.base import BackendError, Embedded
from saccade_ros.backends.exported import ExportedState, exported_info, table_feeds
from saccade_ros.backends.manifest import Artifact, ManifestError, read_manifest
from saccade_ros.backends.window import Floats, StepShape, StepTables, WindowTables, empty_keys
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.frames import Pixels
from saccade_ros.heads import NoHead

MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")  # the last is what the RTX wheels install
LEAST_VERSION = (10, 3)


def load_tensorrt() -> Any:
    """The TensorRT module of this machine.

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
    """Which TensorRT: engines of one flavour or version do not load in another."""
    return f"{trt.__name__.removesuffix('_bindings')} {trt.__version__}"


def describe_gpu() -> str:
    """Name and compute capability of the GPU, or "none"."""
    try:
        properties = Cuda.check(Cuda.load().cudaGetDeviceProperties(0))
    except BackendError:
        return "none"
    return f"{properties.name.decode().strip(chr(0))} sm_{properties.major}{properties.minor}"


def can_run() -> bool:
    """Is there a GPU, and what it takes to use it from here?"""
    return describe_gpu() != "none"


class Cuda:
    """The few calls of the CUDA runtime that a step needs, on one stream; errors become BackendError.

    What is taken for an owner is given back when the owner goes: a node may be configured and cleaned up for years.
    """

    def __init__(self) -> None:
        self._runtime = self.load()
        self.stream = self.check(self._runtime.cudaStreamCreate())
        weakref.finalize(self, self._runtime.cudaStreamDestroy, self.stream)
        self._kinds = self._runtime.cudaMemcpyKind

    @staticmethod
    def load() -> Any:
        """NVIDIA's own binding. Raises BackendError where it is not installed."""
        try:
            return importlib.import_module("cuda.bindings.runtime")
        except ImportError as missing:
            raise BackendError(
                "the tensorrt backend needs NVIDIA's CUDA binding: pip install cuda-bindings"
            ) from missing

    @staticmethod
    def check(answer: tuple[Any, ...]) -> Any:
        """The value in a call's answer. Raises BackendError with CUDA's name of the error."""
        error, *values = answer
        if int(error):
            raise BackendError(f"CUDA: {error.name}: is there an NVIDIA GPU with a driver for this CUDA version?")
        return values[0] if values else None

    def allocate(self, owner: object, nbytes: int) -> int:
        """Device memory."""
        address = int(self.check(self._runtime.cudaMalloc(nbytes)))
        weakref.finalize(owner, self._runtime.cudaFree, address)
        return address

    def pinned(self, owner: object, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """Host memory that the GPU copies from and to on its own."""
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = int(self.check(self._runtime.cudaHostAlloc(nbytes, 0)))
        weakref.finalize(owner, self._runtime.cudaFreeHost, address)
        return np.frombuffer((ctypes.c_byte * nbytes).from_address(address), dtype).reshape(shape)

    def upload(self, device: int, host: np.ndarray[Any, Any]) -> None:
        self._copy(device, host.ctypes.data, host.nbytes, self._kinds.cudaMemcpyHostToDevice)

    def download(self, host: np.ndarray[Any, Any], device: int) -> None:
        self._copy(host.ctypes.data, device, host.nbytes, self._kinds.cudaMemcpyDeviceToHost)

    def _copy(self, target: int, source: int, nbytes: int, kind: Any) -> None:
        self.check(self._runtime.cudaMemcpyAsync(target, source, nbytes, kind, self.stream))

    def copy_rows(self, target: int, pitch: int, source: int, source_pitch: int, width: int, rows: int) -> None:
        """Rows of `width` bytes between device arrays of different row lengths."""
        kind = self._kinds.cudaMemcpyDeviceToDevice
        copied = self._runtime.cudaMemcpy2DAsync(target, pitch, source, source_pitch, width, rows, kind, self.stream)
        self.check(copied)

    def synchronize(self) -> None:
        self.check(self._runtime.cudaStreamSynchronize(self.stream))

    def capture(self, owner: object, work: Any) -> Any:
        """Record what `work` puts on the stream; returns a graph to launch."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.check(self._runtime.cudaStreamBeginCapture(self.stream, mode))
        work()
        graph = self.check(self._runtime.cudaStreamEndCapture(self.stream))
        executable = self.check(self._runtime.cudaGraphInstantiate(graph, 0))
        self.check(self._runtime.cudaGraphDestroy(graph))
        weakref.finalize(owner, self._runtime.cudaGraphExecDestroy, executable)
        return executable

    def launch(self, graph: Any) -> None:
        self.check(self._runtime.cudaGraphLaunch(graph, self.stream))


class TensorRtBackend:
    """Loads the engines of the export that encoder.model names. An export holds no classifier.

    Raises:
        ManifestError: the export is broken, does not fit the settings, or was built for another TensorRT or GPU.
        BackendError: TensorRT, CUDA or the GPU is not there.
    """

    head = NoHead()

    def __init__(self, encoder: EncoderConfig, backend: BackendConfig) -> None:
        manifest = read_manifest(encoder.model)
        artifact = manifest.pick("tensorrt", backend.precision)
        manifest.check_fit(encoder)
        trt = load_tensorrt()
        check_built_for(artifact, trt)
        if backend.device == "cpu":
            raise BackendError("backend.device is 'cpu': TensorRT runs on GPUs only; set 'auto' or 'cuda'")
        files = manifest.check_files(artifact)
        self.shape, self._config, self._contract = StepShape(**manifest.shape), encoder, artifact.contract
        self._tables, self._cuda = WindowTables(self.shape), Cuda()
        self._embed = Engine(trt, files["embed_engine"], self._cuda)
        self._step = Engine(trt, files["engine"], self._cuda)
        self._embed_run = self._embed.bind()
        self.info = exported_info(manifest, artifact, encoder, "cuda", threads=0)

    def embed(self, pixels: Pixels) -> Embedded:
        """See Backend."""
        size = self.info.input_size
        if pixels.shape != (2, 3, size, size):
            raise ValueError(f"tubelet has shape {pixels.shape}; this export takes {(2, 3, size, size)}")
        patches = self._embed_run({"pixels": pixels})["patches"].copy()
        return Embedded(patches, patches)

    def new_state(self) -> "TensorRtState":
        """See Backend."""
        return TensorRtState(self._step, self.shape, self._tables, self._config, self._contract)


class Engine:
    """A deserialized engine; `bind` gives a callable with buffers of its own."""

    def __init__(self, trt: Any, file: Path, cuda: Cuda) -> None:
        self.trt, self.cuda = trt, cuda
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._logger)
        self.engine = self._runtime.deserialize_cuda_engine(file.read_bytes())
        if self.engine is None:
            raise BackendError(f"{file}: TensorRT {trt.__version__} cannot load this engine here: export again")
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        self.inputs = [n for n in names if self.engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        self.outputs = [n for n in names if n not in self.inputs]

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Sizes of an input or output; all are static."""
        return tuple(self.engine.get_tensor_shape(name))

    def bytes_of(self, name: str) -> int:
        """Memory of an input or output."""
        return int(np.prod(self.shape_of(name))) * int(self.engine.get_tensor_dtype(name).itemsize)

    def alias_of(self, name: str) -> str | None:
        """The input whose buffer an output must share (KVCacheUpdate), if any."""
        find = getattr(self.engine, "get_aliased_input_tensor", None)
        return find(name) or None if find else None

    def bind(self, resident: dict[str, int] | None = None) -> "BoundEngine":
        """Buffers and an execution context; `resident` inputs and outputs stay on the GPU and are not copied."""
        return BoundEngine(self, resident or {})


class BoundEngine:
    """An engine with fixed buffers: host inputs up, compute, host outputs down, replayed as one CUDA graph."""

    def __init__(self, engine: Engine, resident: dict[str, int]) -> None:
        self._cuda, self._context = engine.cuda, engine.engine.create_execution_context()
        self._device, self._host = dict(resident), {}
        for name in [*engine.inputs, *engine.outputs]:
            if name not in resident:
                dtype = engine.trt.nptype(engine.engine.get_tensor_dtype(name))
                self._host[name] = self._cuda.pinned(self, engine.shape_of(name), dtype)
                self._device[name] = self._cuda.allocate(self, engine.bytes_of(name))
            self._context.set_tensor_address(name, self._device[name])
        self._up = [name for name in engine.inputs if name in self._host]
        self._down = [name for name in engine.outputs if name in self._host]
        self._graph: Any = None

    def __call__(self, inputs: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Outputs by name, overwritten by the next call. The first runs eagerly, as TensorRT asks, then records."""
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


class TensorRtState(ExportedState):
    """One stream's ring in GPU memory: updated in place, or by a strided copy of each layer's new slot."""

    def __init__(
        self, engine: Engine, shape: StepShape, tables: WindowTables, encoder: EncoderConfig, contract: str
    ) -> None:
        super().__init__(shape, tables, encoder)
        self._engine, self._cuda, self._contract = engine, engine.cuda, contract
        rings = [name for name in engine.inputs if name.startswith(("keys_", "values_"))]
        self._resident = {name: self._cuda.allocate(self, engine.bytes_of(name)) for name in rings}
        for name in engine.outputs:
            if "_out_" in name:
                self._resident[name] = self._resident[engine.alias_of(name) or name.replace("_out_", "_")]
            elif "_new_" in name:
                self._resident[name] = self._cuda.allocate(self, engine.bytes_of(name))
        self._itemsize = int(engine.engine.get_tensor_dtype("keys_0").itemsize)
        self._empty_ring()
        self._run_engine = engine.bind(self._resident)
        self._outputs: dict[str, Any] = {}

    def _run(self, block: Floats, tables: StepTables) -> Floats:
        self._outputs = self._run_engine(table_feeds(self.shape, tables, block))
        if self._contract == "host":
            self._write_slots(tables)
        means: Floats = self._outputs["means"][0].copy()  # (r, D)
        return means

    def _write_slots(self, tables: StepTables) -> None:
        """Copy the block's keys and values, tubelet by tubelet: one strided copy over the heads for each layer."""
        shape = self.shape
        for kind, width in (("keys", shape.key_width), ("values", shape.head_width)):
            tubelet = shape.tokens * width * self._itemsize  # bytes of one tubelet of one head
            for i in range(shape.depth):
                ring, new = self._resident[f"{kind}_{i}"], self._resident[f"{kind}_new_{i}"]
                for j, slot in enumerate(tables.slots):
                    self._cuda.copy_rows(
                        ring + int(slot) * tubelet,
                        shape.window * tubelet,
                        new + j * tubelet,
                        shape.recompute * tubelet,
                        tubelet,
                        shape.heads,
                    )
        self._cuda.synchronize()

    def _empty_ring(self) -> None:
        keys, values = (as_stored(a, self._itemsize, self._is_bf16()) for a in _empty(self.shape))
        for name, device in self._resident.items():
            if name in self._engine.inputs:
                self._cuda.upload(device, keys if name.startswith("keys_") else values)
        self._cuda.synchronize()

    def _is_bf16(self) -> bool:
        return "BF16" in str(self._engine.engine.get_tensor_dtype("keys_0")).upper()

    def tokens(self) -> Floats:
        """Tokens of the last step, oldest tubelet of the block first: (r, S, D)."""
        shape = self.shape
        tokens: Floats = self._outputs["tokens"].reshape(shape.recompute, shape.tokens, shape.width)
        return tokens


def _empty(shape: StepShape) -> tuple[Any, Any]:
    return empty_keys(shape), np.zeros(shape.values, np.float32)


def as_stored(values: Floats, itemsize: int, bf16: bool) -> np.ndarray[Any, Any]:
    """fp32 values in an engine's type. NumPy has no bf16: its bits are the upper half of fp32's."""
    if itemsize == 4:
        return values
    if bf16:
        return np.ascontiguousarray(values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(np.float16)


def check_built_for(artifact: Artifact, trt: Any) -> None:
    """Raise ManifestError unless an engine was built by this TensorRT for this GPU."""
    here = {"tensorrt": describe_tensorrt(trt), "gpu": describe_gpu()}
    for what, found in here.items():
        wanted = artifact.built_for.get(what, "")
        portable = what == "gpu" and wanted == "none"  # TensorRT-RTX finishes such an engine on the GPU it meets
        if wanted != found and not portable:
            raise ManifestError(f"the engine was built for {what} {wanted!r}, here is {found!r}: export again here")


def open_state(folder: Path, artifact: Artifact, shape: StepShape) -> TensorRtState:
    """A stream on a fresh engine, for measuring an export before its manifest is written."""
    engine = Engine(load_tensorrt(), folder / artifact.files["engine"], Cuda())
    return TensorRtState(engine, shape, WindowTables(shape), EncoderConfig(), artifact.contract)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
