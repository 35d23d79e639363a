"""The exported step on TensorRT: the backend, and each stream's ring in GPU memory.

An engine is made by `saccade export`, never here: a node that builds at start keeps a robot waiting for minutes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saccade_ros.backends.base import token_buckets
from saccade_ros.backends.cuda_runtime import Cuda
from saccade_ros.backends.exported import ExportedBackend, ExportedState, step_feeds, step_info
from saccade_ros.backends.interface import Steps
from saccade_ros.backends.manifest import Artifact, read_manifest
from saccade_ros.backends.tensorrt_engine import Engine, check_built_for, load_tensorrt
from saccade_ros.backends.window import Contract, Floats, StepShape, StepTables, WindowTables, empty_keys
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.frames import Pixels

STEP_ROLES = ("engine", "sparse_engine")  # files of dense steps, and of sparse ones where there can be any


class TensorRtBackend(ExportedBackend):
    """Engines of the export that encoder.model names.

    Raises:
        ManifestError: the export is broken, does not fit the settings, or was built for another TensorRT or GPU.
        BackendError: TensorRT, CUDA or the GPU is not there.
    """

    def __init__(self, encoder: EncoderConfig, backend: BackendConfig, fit: str = "crop") -> None:
        manifest = read_manifest(encoder.model)
        artifact = manifest.pick("tensorrt", backend.precision)
        manifest.check_fit(encoder)
        trt = load_tensorrt()
        check_built_for(artifact, trt)
        files = manifest.check_files(artifact)
        self.shape, self._config, self._contract = manifest.step_shape, encoder, artifact.contract
        self._tables, self._cuda = WindowTables(self.shape), Cuda()
        self._embed = Engine(trt, files["embed_engine"], self._cuda)
        self._steps = [Engine(trt, files[role], self._cuda) for role in STEP_ROLES if role in files]
        self._embed_run = self._embed.bind()
        tokens = self.shape.spec.tokens
        counts = token_buckets(tokens) if len(self._steps) > 1 else (tokens,)
        settings = encoder, fit, "cuda", 0, counts
        self.info = step_info(manifest.model, self.shape, "tensorrt", artifact.precision, *settings)

    def new_state(self) -> "TensorRtState":
        """See Backend."""
        return TensorRtState(self._steps, self.shape, self._tables, self._config, self._contract)

    def _embed_patches(self, pixels: Pixels) -> Floats:
        patches: Floats = self._embed_run({"pixels": pixels})["patches"].copy()
        return patches


class TensorRtState(ExportedState):
    """One stream's ring in GPU memory: updated in place, or by a strided copy of each layer's new slot."""

    def __init__(
        self,
        engines: Sequence[Engine],
        shape: StepShape,
        tables: WindowTables,
        encoder: EncoderConfig,
        contract: Contract,
    ) -> None:
        super().__init__(shape, tables, encoder)
        kinds: tuple[Steps, ...] = ("dense", "sparse")
        for engine, steps in zip(engines, kinds, strict=False):
            engine.check(shape, contract, steps)
        engine = engines[0]
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
        self._by_rows = {shape.rows: engine.bind(self._resident)}
        for sparse in engines[1:]:
            for profile, rows in enumerate(token_buckets(shape.spec.tokens)[:-1]):
                self._by_rows[rows] = sparse.bind(self._resident, rows, profile)

    def _run(self, patches: Floats, tables: StepTables) -> dict[str, Floats]:
        if len(patches) not in self._by_rows:
            counts = ", ".join(map(str, sorted(self._by_rows)))
            raise ValueError(f"{len(patches)} tokens are to be computed: these engines compute {counts}")
        outputs = self._by_rows[len(patches)](step_feeds(self.shape, tables, patches))
        if self._contract == "host":
            self._write_slots(tables)
        return {name: values[0] for name, values in outputs.items()}

    def _write_slots(self, tables: StepTables) -> None:
        """Copy the block's keys and values, tubelet by tubelet: one strided copy over the heads for each layer."""
        shape = self.shape
        for kind, width in (("keys", shape.key_width), ("values", shape.spec.head_width)):
            for i in range(shape.spec.depth):
                tubelet = shape.counts[i] * width * self._itemsize  # bytes of one tubelet of one head
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
        for i in range(self.shape.spec.depth):
            for kind, empty in zip(("keys", "values"), _empty(self.shape, i), strict=True):
                self._cuda.upload(self._resident[f"{kind}_{i}"], as_stored(empty, self._itemsize, self._is_bf16()))
        self._cuda.synchronize()

    def _is_bf16(self) -> bool:
        return "BF16" in str(self._engine.engine.get_tensor_dtype("keys_0")).upper()


def open_state(folder: Path, artifact: Artifact, shape: StepShape) -> TensorRtState:
    """A stream on a fresh engine, for measuring an export before its manifest is written."""
    trt, cuda = load_tensorrt(), Cuda()
    engines = [Engine(trt, folder / artifact.files[role], cuda) for role in STEP_ROLES if role in artifact.files]
    return TensorRtState(engines, shape, WindowTables(shape), EncoderConfig(), artifact.contract)


def _empty(shape: StepShape, layer: int) -> tuple[Any, Any]:
    return empty_keys(shape, layer), np.zeros(shape.values(layer), np.float32)


def as_stored(values: Floats, itemsize: int, bf16: bool) -> np.ndarray[Any, Any]:
    """fp32 values in an engine's type. NumPy has no bf16: its bits are the upper half of fp32's."""
    if itemsize == 4:
        return values
    if bf16:
        return np.ascontiguousarray(values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(np.float16)
