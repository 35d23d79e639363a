"""The step as a graph on OpenVINO, from an export or a checkpoint. Needs neither torch nor transformers."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import openvino as ov

from saccade_ros.backends.base import BackendError
from saccade_ros.backends.choice import DOT_PRODUCTS
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
from saccade_ros.backends.manifest import Artifact, ModelInfo, is_export, read_manifest
from saccade_ros.backends.openvino_cache import CompiledCache
from saccade_ros.backends.window import ROWS, Floats, StepShape, StepTables, WindowTables, empty_keys
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.frames import Pixels
from saccade_ros.measure.machine import instruction_sets

if TYPE_CHECKING:  # needs onnx, which running an export does not
    from saccade_ros.backends.graph.onnx_graph import MadeGraph

CACHE = "openvino-cache"  # compiled graphs, in the export's folder
_GROUP = 32  # values with a scale of their own, where activations are quantized at run time
_WEIGHTS_ONLY = "OpenVINO widens int8 weights to fp32 here: this processor has no integer dot products."


@cache
def shared_core() -> ov.Core:
    """OpenVINO's core: one for the process, which is never freed.

    A core gives the thread that first uses its CPU a stack for signal handlers (sigaltstack(2)), and puts back the one
    before when it is freed. Of two that are freed in the order in which they were made, the second puts back the
    first's, which is no longer there: the next signal that Python handles would then end the process.
    """
    return ov.Core()


class OpenedStep(NamedTuple):
    """Compiled step and front end, with what they were made of."""

    model: ModelInfo
    shape: StepShape
    precision: str
    embed: ov.CompiledModel
    step: ov.CompiledModel


class OpenVinoBackend(ExportedBackend):
    """Loads the export or the checkpoint that encoder.model names.

    Raises:
        ManifestError: the export is broken or does not fit the settings.
        BackendError: the device asked for is not there, or refuses the graph; or only torch can load the checkpoint.
        WeightsError, ConfigError, ValueError: the checkpoint cannot be used; the message says why.
    """

    def __init__(self, encoder: EncoderConfig, backend: BackendConfig, fit: str = "crop") -> None:
        core = shared_core()
        device = find_device(core.available_devices, backend)
        open_step = _open_export if is_export(encoder.model) else _open_checkpoint
        opened = open_step(core, device, encoder, backend)
        trim_heap()
        self.shape, self._encoder, self._embed, self._step = opened.shape, encoder, opened.embed, opened.step
        self._tables = WindowTables(self.shape)
        threads = backend.threads or len(os.sched_getaffinity(0))
        counts = () if _has_open_rows(self._step) else (self.shape.spec.tokens,)
        settings = encoder, fit, device.lower(), threads, counts
        info = step_info(opened.model, self.shape, "openvino", opened.precision, *settings)
        weights_only = opened.precision == "int8" and device == "CPU" and not _has_dot_products()
        self.info = replace(info, holds=info.holds and not counts, choice=_WEIGHTS_ONLY if weights_only else "")

    def new_state(self) -> "OpenVinoState":
        """See Backend."""
        return OpenVinoState(self._step, self.shape, self._tables, self._encoder)

    def _embed_patches(self, pixels: Pixels) -> Floats:
        request = self._embed.create_infer_request()
        with denormals_as_zero():
            patches: Floats = next(iter(request.infer({"pixels": pixels}).values()))
        return patches


class OpenVinoState(ExportedState):
    """One stream's ring in memory of ours, which OpenVINO reads where it lies; the block's part is copied into it."""

    def __init__(self, step: ov.CompiledModel, shape: StepShape, tables: WindowTables, encoder: EncoderConfig) -> None:
        super().__init__(shape, tables, encoder)
        self._request = step.create_infer_request()
        self._fresh = [name for name in map(_name, step.outputs) if "_new_" not in name]
        self._ring: dict[str, Floats] = {}
        for i in range(shape.spec.depth):
            self._ring |= {f"keys_{i}": np.empty(shape.keys(i), np.float32)}
            self._ring |= {f"values_{i}": np.empty(shape.values(i), np.float32)}
        self._feed(self._ring)
        self._empty_ring()

    def _feed(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Bind inputs to arrays, without a copy."""
        for name, values in arrays.items():
            self._request.set_tensor(name, ov.Tensor(values, shared_memory=True))

    def _run(self, patches: Floats, tables: StepTables) -> dict[str, Floats]:
        feeds = {n: np.ascontiguousarray(v) for n, v in step_feeds(self.shape, tables, patches).items()}
        self._feed(feeds)
        with denormals_as_zero():
            self._request.infer()
        for name, ring in self._ring.items():
            new = self._request.get_tensor(name.replace("_", "_new_")).data
            write_slots(self.shape, tables, int(name.rpartition("_")[2]), ring, new)
        return {name: self._request.get_tensor(name).data[0] for name in self._fresh}

    def _empty_ring(self) -> None:
        for i in range(self.shape.spec.depth):
            self._ring[f"keys_{i}"][:] = empty_keys(self.shape, i)
            self._ring[f"values_{i}"][:] = 0.0

    def ring(self) -> dict[str, Floats]:
        """A copy of every layer's cached keys and values, as the graph takes them, by name."""
        return {name: values.copy() for name, values in self._ring.items()}


def _open_export(core: ov.Core, device: str, encoder: EncoderConfig, backend: BackendConfig) -> OpenedStep:
    manifest = read_manifest(encoder.model)
    artifact = manifest.pick("openvino", backend.precision)
    manifest.check_fit(encoder)
    files, shape = manifest.check_files(artifact), manifest.step_shape
    graphs = {role: read_graph(core, files[role], files[f"{role}_weights"]) for role in ("embed", "step")}
    _check_graphs(files, graphs["embed"], graphs["step"], shape)
    settings = compile_settings(core, device, artifact.precision, backend.threads)
    cache = CompiledCache(core, manifest.folder / CACHE)
    embed, step = (
        compile_graph(
            str(files[role]),
            partial(cache.compile, graph, device, settings, manifest.hashes_of(artifact, role)),
        )
        for role, graph in _for_device(device, shape, graphs).items()
    )
    return OpenedStep(manifest.model, shape, artifact.precision, embed, step)


def _open_checkpoint(core: ov.Core, device: str, encoder: EncoderConfig, backend: BackendConfig) -> OpenedStep:
    with importing_graphs(encoder.model, extra="openvino"):
        from saccade_ros.backends.graph.checkpoint import make_step
    precision = "fp32" if backend.precision == "auto" else backend.precision
    made = make_step(encoder, "host", branches=False)
    graphs = {"embed": read_made(core, made.embed), "step": read_made(core, made.step)}
    settings = compile_settings(core, device, precision, backend.threads)
    embed, step = (
        compile_graph(encoder.model, partial(core.compile_model, graph, device, settings))
        for graph in _for_device(device, made.shape, graphs).values()
    )
    return OpenedStep(made.model, made.shape, precision, embed, step)


def read_made(core: ov.Core, made: "MadeGraph") -> ov.Model:
    """Read a graph that was made here. OpenVINO reads large constants from files only."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "graph.onnx"
        made.save(file)
        return core.read_model(str(file))


def _for_device(device: str, shape: StepShape, graphs: dict[str, ov.Model]) -> dict[str, ov.Model]:
    """The graphs; for an NPU, which compiles no open sizes, of dense steps only."""
    if device == "NPU":
        fix_rows(graphs["step"], shape.spec.tokens)
    return graphs


def fix_rows(step: ov.Model, rows: int) -> None:
    """Let a step compute so many tokens only."""
    sizes = {_name(end): [rows if size.is_dynamic else size for size in end.partial_shape] for end in step.inputs}
    step.reshape(sizes)


def _has_open_rows(step: ov.CompiledModel) -> bool:
    return any(size.is_dynamic for size in step.input("patches").partial_shape)


def open_state(folder: Path, artifact: Artifact, shape: StepShape, threads: int) -> OpenVinoState:
    """A stream on a freshly compiled step, for measuring an export before its manifest is written."""
    core, file = shared_core(), folder / artifact.files["step"]
    graph = read_graph(core, file, folder / artifact.files["step_weights"])
    settings = compile_settings(core, "CPU", artifact.precision, threads)
    step = compile_graph(str(file), partial(core.compile_model, graph, "CPU", settings))
    return OpenVinoState(step, shape, WindowTables(shape), EncoderConfig())


def find_device(available: list[str], backend: BackendConfig) -> str:
    """OpenVINO's name of the device asked for; "auto" is the CPU, which alone computes as the export measured.

    Raises:
        BackendError: it is not there, and backend.allow_cpu_fallback does not let the CPU stand in.
    """
    wanted = "CPU" if backend.device == "auto" else backend.device.upper()
    if any(name.partition(".")[0] == wanted for name in available):
        return wanted
    if backend.allow_cpu_fallback:
        return "CPU"
    raise BackendError(
        f"backend.device is {backend.device!r}, but OpenVINO {ov.__version__} finds only {', '.join(available)} here: "
        "install the device's driver, set 'cpu', or set backend.allow_cpu_fallback"
    )


def compile_settings(core: ov.Core, device: str, precision: str, threads: int) -> dict[str, Any]:
    """OpenVINO's settings of a graph: one stream, threads that may move between cores, and the arithmetic.

    Raises:
        BackendError: the processor does not have the precision, which OpenVINO would replace by another.
    """
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if device != "CPU":
        return settings
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and not has_bf16:
        raise BackendError("backend.precision is 'bf16', which this processor does not have: set fp32 or an int8")
    return settings | {
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads or len(os.sched_getaffinity(0)),
        "ENABLE_CPU_PINNING": False,
        "CPU_DENORMALS_OPTIMIZATION": True,
        "INFERENCE_PRECISION_HINT": "bf16" if has_bf16 and precision != "fp32" else "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": _GROUP if precision == "int8" and _has_dot_products() else 0,
    }


def _has_dot_products() -> bool:
    return bool(DOT_PRODUCTS & set(instruction_sets()))


def read_graph(core: ov.Core, file: Path, weights: Path) -> ov.Model:
    """Read a graph whose tensors are in `weights`, and nowhere else.

    Raises:
        BackendError: OpenVINO refuses it.
    """
    try:
        return core.read_model(str(file), str(weights))
    except RuntimeError as refused:
        raise _refusal(str(file), refused) from refused


def compile_graph(name: str, compile_it: Callable[[], ov.CompiledModel]) -> ov.CompiledModel:
    """Compile a graph.

    Args:
        name: of the graph, for messages.

    Raises:
        BackendError: OpenVINO cannot.
    """
    try:
        with denormals_as_zero():  # which OpenVINO would leave on
            return compile_it()
    except RuntimeError as refused:
        raise _refusal(name, refused) from refused


def _refusal(name: str, refused: RuntimeError) -> BackendError:
    reason = next((line for line in reversed(str(refused).splitlines()) if line.strip()), type(refused).__name__)
    return BackendError(f"{name}: OpenVINO {ov.__version__} cannot load it ({reason.strip()})")


def _check_graphs(files: Mapping[str, Path], embed: ov.Model, step: ov.Model, shape: StepShape) -> None:
    """Refuse graphs that are not what the manifest says."""
    steps: Steps = "sparse" if shape.can_be_sparse else "dense"
    step_sizes = input_sizes(shape, steps), output_sizes(shape, "host", steps)
    for file, graph, (inputs, outputs), description in (
        (files["embed"], embed, embed_sizes(shape.spec), describe_embed(shape.spec)),
        (files["step"], step, step_sizes, describe_step(shape, "host")),
    ):
        check_sizes(file, "input", _sizes(graph.inputs), inputs)
        check_sizes(file, "output", _sizes(graph.outputs), outputs)
        found = graph.get_rt_info([DESCRIPTION]).astype(str) if graph.has_rt_info([DESCRIPTION]) else ""
        check_description(file, found, description)


def _sizes(ends: Any) -> dict[str, list[int | str]]:
    return {_name(end): [ROWS if size.is_dynamic else size.get_length() for size in end.partial_shape] for end in ends}


def _name(end: Any) -> str:
    return str(end.any_name) if end.names else ""
