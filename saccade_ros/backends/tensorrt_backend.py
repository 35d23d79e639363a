"""The exported step on TensorRT: the backend, and each stream's ring in GPU memory.

An engine is made by `saccade export`, never here: a node that builds at start keeps a robot waiting for minutes.
"""

from pathlib import Path
from typing import Any

import numpy as np

from saccade_ros.backends.base import BackendError, Embedded
from saccade_ros.backends.cuda_runtime import Cuda
from saccade_ros.backends.exported import ExportedState, exported_info, table_feeds
from saccade_ros.backends.manifest import Artifact, read_manifest
from saccade_ros.backends.tensorrt_engine import Engine, check_built_for, load_tensorrt
from saccade_ros.backends.window import Floats, StepShape, StepTables, WindowTables, empty_keys
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.frames import Pixels
from saccade_ros.heads import NoHead


class TensorRtBackend:
    """Engines of the export that encoder.model names. An export holds no classifier.

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
        self.shape, self._config, self._contract = manifest.step_shape, encoder, artifact.contract
        self._tables, self._cuda = WindowTables(self.shape), Cuda()
        self._embed = Engine(trt, files["embed_engine"], self._cuda)
        self._step = Engine(trt, files["engine"], self._cuda)
        self._embed_run = self._embed.bind()
        self.info = exported_info(manifest, artifact, encoder, "cuda", threads=0)

    def embed(self, pixels: Pixels) -> Embedded:
        """See Backend."""
        expected = self.shape.spec.pixels_shape
        if pixels.shape != expected:
            raise ValueError(f"tubelet has shape {pixels.shape}; this export takes {expected}")
        patches = self._embed_run({"pixels": pixels})["patches"].copy()
        return Embedded(patches, patches)

    def new_state(self) -> "TensorRtState":
        """See Backend."""
        return TensorRtState(self._step, self.shape, self._tables, self._config, self._contract)


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
        for kind, width in (("keys", shape.key_width), ("values", shape.spec.head_width)):
            tubelet = shape.spec.tokens * width * self._itemsize  # bytes of one tubelet of one head
            for i in range(shape.spec.depth):
                ring, new = self._resident[f"{kind}_{i}"], self._resident[f"{kind}_new_{i}"]
                for j, slot in enumerate(tables.slots):
                    self._cuda.copy_rows(
                        ring + int(slot) * tubelet,
                        shape.window * tubelet,
                        new + j * tubelet,
                        shape.recompute * tubelet,
                        tubelet,
                        shape.spec.heads,
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
        sizes = self.shape.recompute, self.shape.spec.tokens, self.shape.spec.width
        tokens: Floats = self._outputs["tokens"].reshape(sizes)  # (r, S, D)
        return tokens


def open_state(folder: Path, artifact: Artifact, shape: StepShape) -> TensorRtState:
    """A stream on a fresh engine, for measuring an export before its manifest is written."""
    engine = Engine(load_tensorrt(), folder / artifact.files["engine"], Cuda())
    return TensorRtState(engine, shape, WindowTables(shape), EncoderConfig(), artifact.contract)


def _empty(shape: StepShape) -> tuple[Any, Any]:
    return empty_keys(shape), np.zeros(shape.values, np.float32)


def as_stored(values: Floats, itemsize: int, bf16: bool) -> np.ndarray[Any, Any]:
    """fp32 values in an engine's type. NumPy has no bf16: its bits are the upper half of fp32's."""
    if itemsize == 4:
        return values
    if bf16:
        return np.ascontiguousarray(values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(np.float16)
