"""TensorRT engines from the step's graph: strongly typed, cached by what they were made of, never written in part.

TensorRT 11 has strong typing only (no precision flags, no calibrators), and 10.3 has it already, so the graph carries
its precision: fp16 and bf16 are the graph's own types, int8 would be explicit Q/DQ. The TensorRT-RTX wheels build
without a GPU; what they build is finished on the GPU that loads it.
"""

import hashlib
import os
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from saccade_ros.backends.base import token_buckets
from saccade_ros.backends.cuda_runtime import describe_gpu
from saccade_ros.backends.graph.onnx_graph import MadeGraph
from saccade_ros.backends.manifest import Artifact
from saccade_ros.backends.tensorrt_engine import describe_tensorrt, load_tensorrt
from saccade_ros.backends.window import Contract
from saccade_ros.encoder.model import StreamingEncoder
from saccade_ros.export.graph import ExportError, build_embed, build_step, step_shape
from saccade_ros.measure.progress import Progress, subrange
from saccade_ros.storage import sha256_of, write_file

REPORT_EVERY_S = 2.0
_Model = tuple[str, Callable[[], MadeGraph], tuple[int, ...]]


def build_artifact(encoder: StreamingEncoder, batch: int, precision: str, folder: Path, progress: Progress) -> Artifact:
    """Build the step and its front end into `folder`.

    Args:
        precision: fp32, fp16 or bf16; the front end is always fp32.
        progress: what it raises stops the build.

    Raises:
        BackendError: no TensorRT here. ExportError: it does not parse or build the graph.
    """
    trt = load_tensorrt()
    contract = find_contract(trt, encoder.recompute)
    files, keys = {}, {}
    models = _models(encoder, batch, contract, precision)
    with TemporaryDirectory(dir=folder.parent) as scratch:
        for i, (role, make, counts) in enumerate(models):
            source = Path(scratch) / f"{role}.onnx"
            make().save(source)
            key = engine_key(source, trt, precision, counts)
            target = folder / f"tensorrt-{precision}" / f"{role}-{key[:12]}.engine"
            cached = cache_folder() / f"{key}.engine"
            if not cached.is_file():
                build_engine(trt, source, cached, subrange(progress, i / len(models), 1 / len(models)), counts)
            write_file(target, cached.read_bytes())
            files[role], keys[role] = target.relative_to(folder).as_posix(), key
    built_for = {"tensorrt": describe_tensorrt(trt), "gpu": describe_gpu(), "key": keys["engine"]}
    return Artifact("tensorrt", precision, contract, files, built_for=built_for)


def _models(encoder: StreamingEncoder, batch: int, contract: Contract, precision: str) -> list[_Model]:
    """Graphs of an artifact by role, and the numbers of rows that the engine is to compute where the graph has any.

    Dense steps have a graph of their own, which none of what sparse steps need slows down: a CUDA graph, which replays
    the engine, cannot branch. With areas there are dense steps only: the rows of each area vary with the plan.
    """
    models: list[_Model] = [
        ("embed_engine", lambda: build_embed(encoder), ()),
        ("engine", lambda: build_step(encoder, batch, contract, precision, "dense"), ()),
    ]
    if step_shape(encoder).can_be_sparse and not encoder.areas.are_on:
        few = token_buckets(encoder.spec.tokens)[:-1]
        models.append(("sparse_engine", lambda: build_step(encoder, batch, contract, precision, "sparse"), few))
    return models


def find_contract(trt: Any, recompute: int) -> Contract:
    """Choose in-place cache updates where this TensorRT has them: KVCacheUpdate, one linear one per cache, so r = 1."""
    return "scatter" if recompute == 1 and hasattr(trt, "IKVCacheUpdateLayer") else "host"


def engine_key(source: Path, trt: Any, precision: str, counts: Sequence[int] = ()) -> str:
    """Name an engine by all it depends on: graph and weights (so shapes too), TensorRT, GPU, precision, row counts."""
    data = source.with_name(f"{source.name}.data")
    parts = [sha256_of(source), sha256_of(data) if data.exists() else ""]
    parts += [describe_tensorrt(trt), describe_gpu(), precision, *map(str, counts)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def cache_folder() -> Path:
    """Return the folder in which engines and timings are kept between exports."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "saccade_ros" / "engines"


def build_engine(trt: Any, source: Path, target: Path, progress: Progress, counts: Sequence[int] = ()) -> None:
    """Parse and build one graph; `target` appears whole or not at all.

    Args:
        counts: numbers of rows to compute, each an optimization profile of its own, of a graph that leaves them open.

    Raises:
        ExportError: TensorRT refuses the graph; with its reasons.
        Whatever `progress` raises: the build was stopped.
    """
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # 11 may drop it: all are
    network = builder.create_network(1 << int(flag) if flag is not None else 0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(source)):
        reasons = "; ".join(parser.get_error(i).desc().partition("\n")[0] for i in range(parser.num_errors))
        raise ExportError(f"{describe_tensorrt(trt)} cannot parse the step: {reasons}")
    config = builder.create_builder_config()
    monitor = progress_monitor(trt, progress)
    config.progress_monitor = monitor
    for count in counts:
        config.add_optimization_profile(_profile(builder, network, count))
    timings = target.parent / "timings.cache"
    _use_timings(config, timings)
    serialized = builder.build_serialized_network(network, config)
    if monitor.stopped_by is not None:
        raise monitor.stopped_by
    if serialized is None:
        raise ExportError(f"{describe_tensorrt(trt)} cannot build the step: its log says why")
    _keep_timings(config, timings)
    write_file(target, bytes(serialized))
    progress("building", 1.0)


def _profile(builder: Any, network: Any, count: int) -> Any:
    """Fix the rows of every input that has an open size."""
    profile = builder.create_optimization_profile()
    for tensor in (network.get_input(i) for i in range(network.num_inputs)):
        if -1 in tensor.shape:
            sizes = [count if size == -1 else size for size in tensor.shape]
            profile.set_shape(tensor.name, sizes, sizes, sizes)
    return profile


def progress_monitor(trt: Any, progress: Progress) -> Any:
    """Make an IProgressMonitor that reports every few seconds, and stops the build when `progress` raises."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # known at run time only
        """Progress of all phases together, nested ones counted like others."""

        def __init__(self) -> None:
            super().__init__()
            self.stopped_by: BaseException | None = None
            self._sizes: dict[str, int] = {}
            self._steps: dict[str, int] = {}
            self._reported_s = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """Note a phase's size."""
            self._sizes[phase_name], self._steps[phase_name] = max(num_steps, 1), 0

        def phase_finish(self, phase_name: str) -> None:
            """Count a phase as done."""
            self._steps[phase_name] = self._sizes.get(phase_name, 1)

        def step_complete(self, phase_name: str, step: int) -> bool:
            """Count a step; return False to stop the build."""
            self._steps[phase_name] = step
            if self.stopped_by is None and time.monotonic() - self._reported_s >= REPORT_EVERY_S:
                self._reported_s = time.monotonic()
                try:
                    progress("building", min(sum(self._steps.values()) / max(sum(self._sizes.values()), 1), 0.99))
                except BaseException as stop:  # noqa: BLE001  # must not unwind through TensorRT; raised after it
                    self.stopped_by = stop
            return self.stopped_by is None

    return Monitor()


def _use_timings(config: Any, file: Path) -> None:
    """Measured kernel timings of earlier builds, where this TensorRT takes any (RTX chooses on the GPU instead)."""
    data = file.read_bytes() if file.exists() else b""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # in TensorRT-RTX only, which ignores the cache
        cache = config.create_timing_cache(data)
        if cache is not None:
            config.set_timing_cache(cache, ignore_mismatch=True)


def _keep_timings(config: Any, file: Path) -> None:
    # A convenience: without it the next build only takes longer.
    with warnings.catch_warnings(), suppress(OSError, AttributeError):
        warnings.simplefilter("ignore", DeprecationWarning)
        write_file(file, bytes(config.get_timing_cache().serialize()))
