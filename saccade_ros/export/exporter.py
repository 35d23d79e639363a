"""Export from start to end: load, write graphs, quantize or build, measure, accept or refuse, then appear."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from saccade_ros import __version__
from saccade_ros.backends.exported import step_feeds
from saccade_ros.backends.graph.in_place import has_in_place_caches
from saccade_ros.backends.manifest import Artifact, Manifest, ModelInfo, describe_files, is_export
from saccade_ros.backends.onnx_backend import OnnxState, open_session
from saccade_ros.backends.window import Contract, WindowTables
from saccade_ros.config import BackendConfig, Config, EncoderConfig
from saccade_ros.encoder.areas import Areas
from saccade_ros.encoder.weights import LoadedEncoder, load_encoder
from saccade_ros.export.graph import ExportError, build_embed, build_step, step_shape
from saccade_ros.export.options import ExportOptions
from saccade_ros.export.parity import Reference, compare, compute_reference
from saccade_ros.export.quantize import QUANTIZED, quantize
from saccade_ros.measure.machine import describe_machine
from saccade_ros.measure.progress import Progress, subrange
from saccade_ros.measure.timing import interleave, spread
from saccade_ros.recordings import open_source
from saccade_ros.recordings.clip import read_tubelets
from saccade_ros.storage import home_path, whole_folder

TIMED_ROUNDS = 7


class ExportCancelledError(RuntimeError):
    """Export that was told to stop; raised out of a Progress."""


def export(options: ExportOptions, progress: Progress) -> Manifest:
    """Export to options.out. It appears there whole, or not at all.

    Raises:
        ExportError: nothing could be accepted.
        StorageError: options.out holds something else.
        ExportCancelledError: by `progress`.
        What load_encoder and open_source raise.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    for clip in filter(None, (options.calibration, options.held_out)):  # refused before the model is loaded
        with open_source(clip):
            pass
    out = home_path(options.out)
    with whole_folder(out, is_ours=lambda folder: is_export(str(folder))) as folder:  # a bad place is found first
        progress("loading the model", 0.0)
        manifest = _Export(options, _load(options), folder, progress).run()
        manifest.save()
    progress("done", 1.0)
    return replace(manifest, folder=out)


def _load(options: ExportOptions) -> LoadedEncoder:
    loaded = load_encoder(
        options.model,
        options.window,
        options.recompute,
        options.seed,
        adapter=options.adapter,
        merge=options.merge,
        input_size=options.input_size,
    )
    areas = EncoderConfig(area_grid=options.area_grid).area_shape
    loaded.encoder.attend_by_area(Areas.of(loaded.encoder.spec, *areas, options.area_layers))
    return loaded


class _Export:
    """Steps of one export, and what they share."""

    def __init__(self, options: ExportOptions, loaded: LoadedEncoder, folder: Path, progress: Progress) -> None:
        self._options, self._loaded, self._folder, self._progress = options, loaded, folder, progress
        self._encoder, self._shape = loaded.encoder, step_shape(loaded.encoder)
        self._tables = WindowTables(self._shape)
        self._backend = BackendConfig(device="cpu", threads=options.threads)
        self._baselines: dict[str, Callable[[], None]] = {}  # what an artifact must be faster than
        self._contract: Contract = "scatter" if has_in_place_caches() else "host"

    def run(self) -> Manifest:
        """Make everything but the manifest's file, which must come last."""
        self._calibration, self._held_out = self._references()
        self._progress("writing the graphs", 0.30)
        build_embed(self._encoder).save(self._folder / "embed.onnx")
        pairs = self._options.pairs()
        accepted: list[Artifact] = []
        refused: list[str] = []
        for i, (form, precision) in enumerate(pairs):
            start, span = 0.35 + 0.6 * i / len(pairs), 0.6 / len(pairs)
            made = self._attempt(form, precision, subrange(self._progress, start, span, f"{form} {precision}"))
            if isinstance(made, Artifact):
                accepted.append(made)
            else:
                refused.append(made)
        if not accepted:
            raise ExportError("nothing was accepted. " + " | ".join(refused) + " (--force keeps them with a warning)")
        self._refused = refused
        return self._manifest(sorted(accepted, key=_cost))

    def _references(self) -> tuple[Reference, Reference]:
        """The two clips as torch computes them in fp32."""
        options, spec = self._options, self._encoder.spec
        clip = list(read_tubelets(options.calibration, Config(), spec.input_size, options.tubelets))
        name, other_name = Path(options.calibration).name, Path(options.held_out).name
        if options.held_out:
            other = list(read_tubelets(options.held_out, Config(), spec.input_size, options.tubelets))
        else:
            half = len(clip) // 2
            clip, other, name, other_name = clip[:half], clip[half:], f"{name} (first half)", f"{name} (second half)"
        for what, tubelets in ((name, clip), (other_name, other)):
            if len(tubelets) < 2:
                raise ExportError(f"{what}: {len(tubelets)} tubelets are too few to compare; give a longer recording")
        first = compute_reference(self._encoder, name, clip, subrange(self._progress, 0.05, 0.12))
        return first, compute_reference(self._encoder, other_name, other, subrange(self._progress, 0.17, 0.12))

    def _attempt(self, form: str, precision: str, progress: Progress) -> Artifact | str:
        """Make an artifact that is good enough to keep; else delete what there is of it, and say why."""
        artifact = None
        try:
            artifact = self._make(form, precision, progress)
            reasons = self._rejections(artifact)
        except ExportCancelledError:
            raise
        except Exception as failed:  # noqa: BLE001  # those of ONNX Runtime and TensorRT share no base class
            reasons = [f"failed: {str(failed).partition(chr(10))[0] or type(failed).__name__}"]
        if artifact and (self._options.force or not reasons):
            return replace(artifact, warnings=reasons)
        shutil.rmtree(self._folder_of(form, precision), ignore_errors=True)
        return f"{form} {precision}: {'; '.join(reasons)}"

    def _make(self, form: str, precision: str, progress: Progress) -> Artifact:
        progress("writing", 0.0)
        if form == "tensorrt":
            return self._make_tensorrt(precision, progress)
        if form == "openvino":
            return self._make_openvino(precision, progress)
        folder = self._folder_of(form, precision)
        folder.mkdir()
        step = folder / "step.onnx"
        if precision in QUANTIZED:
            with TemporaryDirectory(dir=self._folder.parent) as scratch:
                plain = Path(scratch) / "step.onnx"
                build_step(self._encoder, self._options.batch, self._contract).save(plain)
                quantize(precision, plain, step, self._shape.spec.depth, self._feeds(plain))
        else:
            build_step(self._encoder, self._options.batch, self._contract, precision).save(step)
        progress("loading", 0.4)
        files = {"embed": "embed.onnx", "embed_data": "embed.onnx.data"}
        files |= {role: f"{folder.name}/{path.name}" for role, path in _named(folder)}
        artifact = Artifact("onnxruntime", precision, self._contract, files)
        return self._measure(artifact, lambda: self._onnx_state(step), progress)

    def _make_tensorrt(self, precision: str, progress: Progress) -> Artifact:
        from saccade_ros.export.tensorrt_builder import build_artifact  # only here: TensorRT is an extra

        artifact = build_artifact(self._encoder, self._options.batch, precision, self._folder, progress)
        from saccade_ros.backends.cuda_runtime import can_run
        from saccade_ros.backends.tensorrt_backend import open_state

        if not can_run():
            return artifact
        return self._measure(artifact, lambda: open_state(self._folder, artifact, self._shape), progress)

    def _make_openvino(self, precision: str, progress: Progress) -> Artifact:
        from saccade_ros.backends.openvino_backend import open_state  # only here: OpenVINO is an extra
        from saccade_ros.export.openvino_builder import build_artifact

        with TemporaryDirectory(dir=self._folder.parent) as scratch:
            plain = Path(scratch) / "step.onnx"
            if precision == "int8-static":
                build_step(self._encoder, self._options.batch, self._contract).save(plain)
            artifact = build_artifact(
                self._encoder, self._options.batch, precision, self._folder, lambda: self._feeds(plain)
            )
        progress("loading", 0.4)
        return self._measure(
            artifact, lambda: open_state(self._folder, artifact, self._shape, self._options.threads), progress
        )

    def _onnx_state(self, step: Path) -> OnnxState:
        session = open_session(step, self._backend, "cpu")
        return OnnxState(session, self._shape, self._tables, _PLAIN, "cpu", self._contract)

    def _measure(self, artifact: Artifact, new_state: Callable[[], Any], progress: Progress) -> Artifact:
        """Parity on both clips, then interleaved timing against torch on a full ring."""
        if self._options.batch > 1:
            return replace(artifact, warnings=["not measured: the clips are single streams"])
        state = new_state()
        parity = {}
        for i, (use, reference) in enumerate((("calibration", self._calibration), ("held_out", self._held_out))):
            state.reset()
            parity[use] = compare(state, reference, subrange(progress, 0.4 + 0.2 * i, 0.2))
        patches = self._calibration.patches

        def exported_step() -> None:
            """Encode the clip's next tubelet."""
            state.step(patches[state.count % len(patches)])

        self._baselines.setdefault("torch_fp32", self._torch_step())
        for _ in range(self._shape.window):
            exported_step()
        steps = {**self._baselines, "step": exported_step}
        times_ms = interleave(steps, TIMED_ROUNDS, progress=subrange(progress, 0.8, 0.2))
        medians_ms = {name: round(spread(times).median, 3) for name, times in times_ms.items()}
        if artifact.precision == "fp32":
            self._baselines[f"{artifact.runtime}_fp32"] = exported_step
        size = sum((self._folder / name).stat().st_size for role, name in artifact.files.items() if "embed" not in role)
        plain = 4 * sum(p.numel() for p in self._encoder.parameters())
        return replace(artifact, parity={**parity, "bytes": size, "bytes_fp32": plain}, latency_ms=medians_ms)

    def _torch_step(self) -> Callable[[], None]:
        """A step of the torch encoder on a full ring."""
        ring, tensors = self._encoder.new_ring(), [torch.from_numpy(p) for p in self._calibration.patches]

        def step() -> None:
            """Encode the clip's next tubelet."""
            self._encoder.step([tensors[ring.count % len(tensors)]], [ring])

        for _ in range(self._shape.window):
            step()
        return step

    def _rejections(self, artifact: Artifact) -> list[str]:
        """Reasons not to use an artifact, with the figures; empty if there is none."""
        if not artifact.parity:
            return artifact.warnings or [f"not measured: {artifact.runtime} cannot run on this machine"]
        reasons, held_out, times = [], artifact.parity["held_out"], artifact.latency_ms
        if held_out["centred_cosine_mean"] < self._options.fidelity_floor:
            reasons.append(
                f"mean centred cosine {held_out['centred_cosine_mean']:.4f} on {held_out['clip']} is below the floor "
                f"{self._options.fidelity_floor}"
            )
        before = times.get(f"{artifact.runtime}_fp32", times["torch_fp32"])
        if artifact.precision != "fp32" and times["step"] >= before:
            reasons.append(f"{times['step']:.1f} ms a step is no faster than fp32's {before:.1f} ms")
        return reasons

    def _folder_of(self, form: str, precision: str) -> Path:
        """Folder of the files that are an artifact's own."""
        return self._folder / f"{form}-{precision}"

    def _feeds(self, step: Path) -> Iterator[dict[str, Any]]:
        """Inputs of each step on the calibration clip, the ring as it was before."""
        spec, state = self._shape.spec, self._onnx_state(step)
        block = np.zeros((self._shape.recompute, spec.tokens, spec.width), np.float32)
        for count, patches in enumerate(self._calibration.patches):
            block = np.concatenate([block[1:], patches[None]])
            tables = self._tables.at(count)
            feeds = step_feeds(self._shape, tables, tables.rows_of(block))
            yield feeds | state.ring()
            state.step(patches)

    def _manifest(self, artifacts: Sequence[Artifact]) -> Manifest:
        loaded, shape = self._loaded, self._shape
        model = ModelInfo(
            source=loaded.source,
            sha256=loaded.sha256,
            is_random=loaded.is_random,
            patch_scale=float(self._encoder.patch_embed.weight.norm()),
        )
        return Manifest(
            folder=self._folder,
            package_version=__version__,
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            machine=describe_machine(),
            model=model,
            spec=shape.spec,
            shape=replace(shape, batch=self._options.batch).sizes,
            artifacts=tuple(artifacts),
            refused=tuple(self._refused),
            files=describe_files(self._folder),
            versions=installed_versions(),
        )


_PACKAGES = (
    "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "nncf", "numpy", "tensorrt",
    "tensorrt_rtx_cu13_bindings",
)  # fmt: skip
_PLAIN = EncoderConfig()  # newest pooling, no normalisation: what parity is measured on


def _cost(artifact: Artifact) -> float:
    """Fastest first; what could not be timed comes last."""
    return artifact.latency_ms.get("step", float("inf"))


def _named(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.iterdir()):
        yield path.name.replace(".onnx", "").replace(".", "_"), path


def installed_versions() -> dict[str, str]:
    """Look up the versions of the packages that take part in an export and are installed here."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
