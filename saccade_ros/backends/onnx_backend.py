"""The step as a graph on ONNX Runtime, from an export or a checkpoint. Needs neither torch nor transformers."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from saccade_ros.backends.base import BackendError, StepRequest, streams_together
from saccade_ros.backends.denormals import denormals_as_zero
from saccade_ros.backends.exported import (
    ExportedBackend,
    ExportedState,
    importing_graphs,
    step_feeds,
    step_info,
    write_slots,
)
from saccade_ros.backends.heap import trim_heap
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
from saccade_ros.backends.manifest import Artifact, ManifestError, ModelInfo, is_export, read_manifest
from saccade_ros.backends.window import Floats, StepShape, StepTables, WindowTables, empty_keys
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.frames import Pixels, Vector

ort.disable_telemetry_events()  # should somebody have imported it before saccade_ros, which says so, too

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_RINGS = ("keys_", "values_")


class OpenedStep(NamedTuple):
    """Sessions of a step and of its front end, with what they were made of."""

    model: ModelInfo
    shape: StepShape
    contract: str
    precision: str
    embed: ort.InferenceSession
    step: ort.InferenceSession


class OnnxBackend(ExportedBackend):
    """Loads the export or the checkpoint that encoder.model names.

    Raises:
        ManifestError: the export is broken or does not fit the settings.
        BackendError: the provider asked for is not there, or refuses the graph; or only torch can load the checkpoint.
        WeightsError, ConfigError, ValueError: the checkpoint cannot be used; the message says why.
    """

    def __init__(self, encoder: EncoderConfig, backend: BackendConfig, fit: str = "crop") -> None:
        device, open_step = find_device(backend.device), _open_export if is_export(encoder.model) else _open_checkpoint
        opened = open_step(encoder, backend, device)
        trim_heap()
        self.shape, self._encoder, self._contract = opened.shape, encoder, opened.contract
        self._tables = WindowTables(self.shape)
        self._embed, self._step = opened.embed, opened.step
        self.device = device if self._step.get_providers()[0] == PROVIDERS[device] else "cpu"
        threads = backend.threads or len(os.sched_getaffinity(0))
        counts = () if self.shape.can_be_sparse else (self.shape.spec.tokens,)
        settings = encoder, fit, self.device, threads, counts
        info = step_info(opened.model, self.shape, "onnxruntime", opened.precision, *settings)
        most = streams_together(self.shape.spec, self.shape.recompute) if self.device == "cpu" else 1
        self.info = replace(info, together=min(threads, most))
        self._callers = ThreadPoolExecutor(threads, "saccade-steps")  # they start when they are needed

    def new_state(self) -> "OnnxState":
        """See Backend."""
        return OnnxState(self._step, self.shape, self._tables, self._encoder, self.device, self._contract)

    def _embed_patches(self, pixels: Pixels) -> Floats:
        with denormals_as_zero():
            patches: Floats = self._embed.run(["patches"], {"pixels": pixels})[0]
        return patches

    def step_together(self, requests: Sequence[StepRequest]) -> list[Vector]:
        """See JointBackend. Each stream's step is a call of its own; as many run at once as there are threads."""
        steps = [self._callers.submit(request.compute) for request in requests]
        wait(steps)
        if any(step.exception() for step in steps):
            for request, step in zip(requests, steps, strict=True):
                if not step.exception():
                    request.state.step_back()
        return [step.result() for step in steps]


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
                write_slots(self.shape, tables, i, slots, new)
                if not np.shares_memory(slots, ring.numpy()):
                    ring.update_inplace(slots)

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


def _open_export(encoder: EncoderConfig, backend: BackendConfig, device: str) -> OpenedStep:
    manifest = read_manifest(encoder.model)
    artifact = manifest.pick("onnxruntime", backend.precision)
    manifest.check_fit(encoder)
    files = manifest.check_files(artifact)
    embed, step = (
        open_session(files[role], backend, device, [f for f in files.values() if f.parent == files[role].parent])
        for role in ("embed", "step")
    )
    _check_graphs(files, embed, step, manifest.step_shape, artifact)
    return OpenedStep(manifest.model, manifest.step_shape, artifact.contract, artifact.precision, embed, step)


def _open_checkpoint(encoder: EncoderConfig, backend: BackendConfig, device: str) -> OpenedStep:
    with importing_graphs(encoder.model, extra="onnx"):
        from saccade_ros.backends.graph.checkpoint import make_step
        from saccade_ros.backends.graph.in_place import has_in_place_caches
    precision = "fp32" if backend.precision == "auto" else backend.precision
    made = make_step(encoder, "scatter" if has_in_place_caches() else "host", precision)
    embed, step = (
        open_graph(encoder.model, graph.model.SerializeToString(), graph.constants, backend, device)
        for graph in (made.embed, made.step)
    )
    return OpenedStep(made.model, made.shape, made.contract, made.precision, embed, step)


def find_device(name: str) -> str:
    """The device that "auto" means here: a GPU only if this build of ONNX Runtime can use one."""
    if name != "auto":
        return name
    return "cuda" if PROVIDERS["cuda"] in ort.get_available_providers() else "cpu"


def open_session(
    file: Path, backend: BackendConfig, device: str, data: Sequence[Path] | None = None
) -> ort.InferenceSession:
    """Load a graph from a file, as open_graph does.

    Args:
        data: files beside it that its tensors may be in; no other is read, whatever the graph names. None is the one
            that an export writes.

    Raises:
        BackendError: a file cannot be read, or what open_graph raises.
    """
    beside = [file.with_name(f"{file.name}.data")] if data is None else data
    try:
        mapped = {
            part.name: np.memmap(part, np.uint8, "r") for part in beside if part.is_file() and part.stat().st_size
        }
        return open_graph(str(file), file.read_bytes(), mapped, backend, device)
    except OSError as unreadable:
        raise BackendError(f"{file}: cannot be read ({unreadable}); copy or make the export again") from unreadable


def open_graph(
    name: str, graph: bytes, constants: Mapping[str, npt.NDArray[Any]], backend: BackendConfig, device: str
) -> ort.InferenceSession:
    """Load a graph on the provider asked for, and on no other unless backend.allow_cpu_fallback, or none was asked for.

    Args:
        name: of the graph, for messages.
        constants: what it names as its external files, by name. ONNX Runtime keeps nothing of them.

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
    providers = [p for p in (wanted,) if p in available] or None
    try:
        options = _options(backend)
        _give_constants(options, constants)
        with denormals_as_zero():  # the first session of a process would leave it on
            session = ort.InferenceSession(graph, options, providers=providers)
    except Exception as refused:  # ONNX Runtime's own exceptions share no base class
        reason = str(refused).partition("\n")[0]
        raise BackendError(f"{name}: ONNX Runtime {ort.__version__} cannot load it ({reason})") from refused
    may_fall_back = backend.allow_cpu_fallback or backend.device == "auto"  # a GPU build where there is no GPU
    if session.get_providers()[0] != wanted and not may_fall_back:
        raise BackendError(
            f"{name}: {wanted} was asked for, but ONNX Runtime fell back to {session.get_providers()[0]}: mend the "
            "GPU's driver and libraries, set backend.device 'cpu', or set backend.allow_cpu_fallback"
        )
    return session


def _options(backend: BackendConfig) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = backend.threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores alone
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Softmax gives an invalid slot the smallest denormal, and denormals are ten times slower to multiply.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return options


def _give_constants(options: ort.SessionOptions, constants: Mapping[str, npt.NDArray[Any]]) -> None:
    """Give a graph, which is read from memory, the files that its tensors may be in, and no others."""
    if not hasattr(options, "add_external_initializers_from_files_in_memory"):
        raise BackendError(f"ONNX Runtime {ort.__version__} is too old: install 1.24 or later")
    if constants:
        parts = [values.reshape(-1).view(np.uint8) for values in constants.values()]
        options.add_external_initializers_from_files_in_memory(list(constants), parts, [part.size for part in parts])


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
