"""The exported step on ONNX Runtime. Needs neither torch nor transformers."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from saccade_ros.backends.base import BackendError, Embedded
from saccade_ros.backends.denormals import denormals_as_zero
from saccade_ros.backends.exported import ExportedState, exported_info, step_feeds
from saccade_ros.backends.interface import (
    DESCRIPTION,
    Steps,
    check_description,
    check_sizes,
    describe_embed,
    describe_step,
    embed_sizes,
    input_sizes,
    output_sizes,
)
from saccade_ros.backends.manifest import Artifact, ManifestError, read_manifest
from saccade_ros.backends.window import Floats, StepShape, StepTables, WindowTables, empty_keys
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.frames import Pixels
from saccade_ros.heads import NoHead

ort.disable_telemetry_events()  # should somebody have imported it before saccade_ros, which says so, too

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_RINGS = ("keys_", "values_")


class OnnxBackend:
    """Loads the export that encoder.model names. An export holds no classifier.

    Raises:
        ManifestError: the export is broken or does not fit the settings.
        BackendError: the provider asked for is not there, or refuses the graph.
    """

    head = NoHead()

    def __init__(self, encoder: EncoderConfig, backend: BackendConfig, fit: str = "crop") -> None:
        manifest = read_manifest(encoder.model)
        artifact = manifest.pick("onnxruntime", backend.precision)
        manifest.check_fit(encoder)
        files = manifest.check_files(artifact)
        self.shape, self._encoder = manifest.step_shape, encoder
        self._tables = WindowTables(self.shape)
        wanted = find_device(backend.device)
        self._embed, self._step = (
            open_session(files[role], backend, wanted, [f for f in files.values() if f.parent == files[role].parent])
            for role in ("embed", "step")
        )
        self.device = wanted if self._step.get_providers()[0] == PROVIDERS[wanted] else "cpu"
        self._contract = artifact.contract
        _check_graphs(files, self._embed, self._step, self.shape, artifact)
        threads = backend.threads or len(os.sched_getaffinity(0))
        counts = () if self.shape.can_be_sparse else (self.shape.spec.tokens,)
        self.info = exported_info(manifest, artifact, encoder, fit, self.device, threads, counts)

    def embed(self, pixels: Pixels) -> Embedded:
        """See Backend."""
        expected = self.shape.spec.pixels_shape
        if pixels.shape != expected:
            raise ValueError(f"tubelet has shape {pixels.shape}; this export takes {expected}")
        with denormals_as_zero():
            patches = self._embed.run(["patches"], {"pixels": pixels})[0]
        return Embedded(patches, patches)

    def new_state(self) -> "OnnxState":
        """See Backend."""
        return OnnxState(self._step, self.shape, self._tables, self._encoder, self.device, self._contract)


class OnnxState(ExportedState):
    """One stream's ring in OrtValues that are bound once and never move; the other inputs are bound by step.

    By the scatter contract each is input and output at once; by the host's, the block's part is copied into its slot.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        shape: StepShape,
        tables: WindowTables,
        encoder: EncoderConfig,
        device: str,
        contract: str,
    ) -> None:
        super().__init__(shape, tables, encoder)
        self._session, self._binding, self._device, self._contract = session, session.io_binding(), device, contract
        self._ring = {i.name: self._allocate(i) for i in session.get_inputs() if i.name.startswith(_RINGS)}
        self._new = {o.name: self._allocate(o) for o in session.get_outputs() if "_new_" in o.name}
        for name, value in self._ring.items():
            self._binding.bind_ortvalue_input(name, value)
        self._fresh = [o.name for o in session.get_outputs() if not o.name.startswith(_RINGS)]
        for output in session.get_outputs()[len(self._fresh) :]:
            own = self._new.get(output.name) or self._ring[output.name.replace("_out_", "_")]
            self._binding.bind_ortvalue_output(output.name, own)
        self._empty_ring()

    def _allocate(self, tensor: ort.NodeArg) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_numpy(np.zeros(tensor.shape, _TYPES[tensor.type]), self._device)

    def _run(self, patches: Floats, tables: StepTables) -> dict[str, Floats]:
        feeds = {n: np.ascontiguousarray(v) for n, v in step_feeds(self.shape, tables, patches).items()}
        for name, value in feeds.items():
            self._binding.bind_cpu_input(name, value)
        for name in self._fresh:
            self._binding.bind_output(name, "cpu")  # anew: it keeps the size of the step before
        with denormals_as_zero():
            self._session.run_with_iobinding(self._binding)
        if self._contract == "host":
            self._write_slots(tables)
        fresh = self._binding.get_outputs()[-len(self._fresh) :]
        return {name: value.numpy()[0] for name, value in zip(self._fresh, fresh, strict=True)}

    def _write_slots(self, tables: StepTables) -> None:
        for kind in ("keys", "values"):
            for i in range(self.shape.spec.depth):
                ring = self._ring[f"{kind}_{i}"]
                new, slots = self._new[f"{kind}_new_{i}"].numpy(), ring.numpy()
                for j, slot in enumerate(tables.slots):
                    slots[:, :, self._rows(i, slot)] = new[:, :, self._rows(i, j)]
                if not np.shares_memory(slots, ring.numpy()):
                    ring.update_inplace(slots)

    def _rows(self, layer: int, tubelet: Any) -> slice:
        tokens = self.shape.counts[layer]
        return slice(tubelet * tokens, (tubelet + 1) * tokens)

    def _empty_ring(self) -> None:
        for i in range(self.shape.spec.depth):
            keys, values = self._ring[f"keys_{i}"], self._ring[f"values_{i}"]
            keys.update_inplace(empty_keys(self.shape, i, _TYPES[keys.data_type()]))
            values.update_inplace(np.zeros(self.shape.values(i), _TYPES[values.data_type()]))

    def ring(self) -> dict[str, Floats]:
        """A copy of every layer's cached keys and values, as the graph takes them, by name."""
        return {name: value.numpy().copy() for name, value in self._ring.items()}

    def cache(self, layer: int) -> tuple[Floats, Floats]:
        """A layer's keys at their window positions, and its values: (A, W*S, E) each, by slot; invalid ones as well."""
        keys = self._ring[f"keys_{layer}"].numpy()[0].astype(np.float32)
        values = self._ring[f"values_{layer}"].numpy()[0].astype(np.float32)
        return self._tables.read_keys(keys, self.count), values


def find_device(name: str) -> str:
    """The device that "auto" means here: a GPU only if this build of ONNX Runtime can use one."""
    if name != "auto":
        return name
    return "cuda" if PROVIDERS["cuda"] in ort.get_available_providers() else "cpu"


def open_session(
    file: Path, backend: BackendConfig, device: str, data: Sequence[Path] | None = None
) -> ort.InferenceSession:
    """Load a graph on the provider asked for, and on no other unless backend.allow_cpu_fallback, or none was asked for.

    Args:
        data: files beside it that its tensors may be in; no other is read, whatever the graph names. None is the one
            that an export writes.

    Raises:
        BackendError: the provider is not there, or the runtime refuses the graph.
    """
    wanted = PROVIDERS[device]
    available = ort.get_available_providers()
    if wanted not in available and not backend.allow_cpu_fallback:
        raise BackendError(
            f"backend.device is {device!r} but this ONNX Runtime {ort.__version__} has no {wanted} (it has "
            f"{', '.join(available)}): install onnxruntime-gpu, set 'cpu', or set backend.allow_cpu_fallback"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = backend.threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores alone
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Softmax gives an invalid slot the smallest denormal, and denormals are ten times slower to multiply.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    providers = [p for p in (wanted,) if p in available] or None
    try:
        mapped = _give_data(options, [file.with_name(f"{file.name}.data")] if data is None else data)
        with denormals_as_zero():  # the first session of a process would leave it on
            session = ort.InferenceSession(file.read_bytes(), options, providers=providers)
        del mapped  # not before
    except Exception as refused:  # ONNX Runtime's own exceptions share no base class
        reason = str(refused).partition("\n")[0]
        raise BackendError(f"{file}: ONNX Runtime {ort.__version__} cannot load it ({reason})") from refused
    may_fall_back = backend.allow_cpu_fallback or backend.device == "auto"  # a GPU build where there is no GPU
    if session.get_providers()[0] != wanted and not may_fall_back:
        raise BackendError(
            f"{file}: {wanted} was asked for, but ONNX Runtime fell back to {session.get_providers()[0]}: mend the "
            "GPU's driver and libraries, set backend.device 'cpu', or set backend.allow_cpu_fallback"
        )
    return session


def _give_data(options: ort.SessionOptions, files: Sequence[Path]) -> list[npt.NDArray[np.uint8]]:
    """Map the files that a graph's tensors may be in; a graph that is read from memory is given no others.

    Returns:
        What must be kept until the session is there: ONNX Runtime reads from it, and takes no part in owning it.
    """
    if not hasattr(options, "add_external_initializers_from_files_in_memory"):
        raise BackendError(f"ONNX Runtime {ort.__version__} is too old: install 1.24 or later")
    there = [file for file in files if file.is_file() and file.stat().st_size]
    mapped: list[npt.NDArray[np.uint8]] = [np.memmap(file, np.uint8, "r") for file in there]
    if mapped:
        sizes = [part.size for part in mapped]
        options.add_external_initializers_from_files_in_memory([file.name for file in there], mapped, sizes)
    return mapped


def _check_graphs(
    files: Mapping[str, Path],
    embed: ort.InferenceSession,
    step: ort.InferenceSession,
    shape: StepShape,
    artifact: Artifact,
) -> None:
    """Refuse graphs that are not what the manifest says."""
    steps: Steps = "any" if shape.can_be_sparse else "dense"
    step_sizes = input_sizes(shape, steps), output_sizes(shape, artifact.contract, steps)
    for file, session, (inputs, outputs), description in (
        (files["embed"], embed, embed_sizes(shape.spec), describe_embed(shape.spec)),
        (files["step"], step, step_sizes, describe_step(shape, artifact.contract)),
    ):
        check_sizes(file, "input", _sizes(session.get_inputs()), inputs)
        check_sizes(file, "output", _sizes(session.get_outputs()), outputs)
        check_description(file, session.get_modelmeta().custom_metadata_map.get(DESCRIPTION, ""), description)
    if (step.get_inputs()[-1].type == "tensor(float16)") != (artifact.precision == "fp16"):
        raise ManifestError(f"{files['step']}: its graph is not {artifact.precision}, which its manifest says it is")


def _sizes(ends: Sequence[ort.NodeArg]) -> dict[str, list[int | str]]:
    return {end.name: end.shape for end in ends}
