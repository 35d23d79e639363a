"""Speed and parity of an export's artifacts on the CPU, against torch, in one run: `saccade bench export`."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rich.table import Table

from saccade_ros.backends import load_backend
from saccade_ros.backends.manifest import Artifact, Manifest, read_manifest
from saccade_ros.config import BackendConfig, Config, EncoderConfig
from saccade_ros.encoder.weights import load_encoder
from saccade_ros.export.exporter import installed_versions
from saccade_ros.export.graph import ExportError
from saccade_ros.export.parity import MeasuredState, compare, compute_reference
from saccade_ros.knobs import Settings, knob, required
from saccade_ros.measure.progress import Progress, subrange
from saccade_ros.measure.records import record_head
from saccade_ros.measure.timing import interleave, spread
from saccade_ros.recordings.clip import read_tubelets
from saccade_ros.runtimes import RUNTIMES
from saccade_ros.studies.full_cache import FullCache


@dataclass(frozen=True)
class Options(Settings):
    """Export to measure, and clips to compare on."""

    folder: str = required("Folder that `saccade export` wrote.", metavar="FOLDER", positional=True)
    model: str = required("Checkpoint or size that it was exported from.")
    threads: int = knob(0, "CPU threads; 0 leaves the runtimes' default.", at_least=0)
    rounds: int = knob(15, "Steps of each.", at_least=1)
    clips: tuple[str, ...] = knob(
        (), "Bags or videos to compare artifacts on, over the first three windows of each.", metavar="CLIP"
    )


def run(options: Options, progress: Progress) -> dict[str, Any]:
    """Time a step on a full cache of torch in each precision and of each artifact for the CPU, in turn.

    Raises:
        ManifestError: the folder is no export.
        ExportError: it was exported from other weights than the model's.
    """
    progress("loading", 0.0)
    manifest = read_manifest(options.folder)
    steps = {
        f"{backend.name} {backend.precision}": _full_step(encoder, backend, manifest)
        for encoder, backend in _settings(options, manifest)
    }
    times_ms = interleave(steps, options.rounds, progress=subrange(progress, 0.2, 0.3))
    medians_ms = {name: round(spread(times).median, 3) for name, times in times_ms.items()}
    span = 0.5 / max(1, len(options.clips))
    return {
        "bench": "export",
        **record_head(manifest.model.source, manifest.model.sha256),
        "model": options.model,
        "window": manifest.shape["window"],
        "recompute": manifest.shape["recompute"],
        "threads": options.threads,
        "rounds": options.rounds,
        "step_ms": medians_ms,
        "times_torch_fp32": {name: round(medians_ms["torch fp32"] / ms, 2) for name, ms in medians_ms.items()},
        "parity": [
            _parity(options, manifest, clip, subrange(progress, 0.5 + span * i, span, f"comparing on {clip}"))
            for i, clip in enumerate(options.clips)
        ],
        "versions": installed_versions(),
    }


def _encoder(model: str, manifest: Manifest) -> EncoderConfig:
    return EncoderConfig(model=model, **manifest.settings)


def _cpu_artifacts(manifest: Manifest) -> list[Artifact]:
    return [artifact for artifact in manifest.artifacts if "cpu" in RUNTIMES[artifact.runtime].devices]


def _settings(options: Options, manifest: Manifest) -> Iterator[tuple[EncoderConfig, BackendConfig]]:
    """Everything to be timed: torch, then the artifacts."""
    sources = [("torch", options.model, precision) for precision in ("fp32", "bf16", "int8")]
    sources += [(artifact.runtime, options.folder, artifact.precision) for artifact in _cpu_artifacts(manifest)]
    for name, model, precision in sources:
        backend = BackendConfig(name=name, device="cpu", precision=precision, threads=options.threads)
        yield _encoder(model, manifest), backend


def _full_step(encoder: EncoderConfig, backend: BackendConfig, manifest: Manifest) -> Callable[[], object]:
    """One step of a loaded backend on a full cache, ready to be timed."""
    loaded = load_backend(encoder, backend)
    if loaded.info.weights_sha256 != manifest.model.sha256:
        raise ExportError(
            f"{encoder.model} has weights {loaded.info.weights_sha256[:12]}, the export {manifest.model.sha256[:12]}: "
            "give --model what it was exported from"
        )
    return FullCache(loaded).encode


def _parity(options: Options, manifest: Manifest, clip: str, progress: Progress) -> dict[str, Any]:
    """Each artifact against torch fp32 over three windows of a clip."""
    settings, artifacts = _encoder(options.folder, manifest), _cpu_artifacts(manifest)
    encoder = load_encoder(options.model, settings.window, settings.recompute, merge=settings.merge).encoder
    encoder.attend_by_area(manifest.step_shape.areas)
    tubelets = list(read_tubelets(clip, Config(), manifest.spec.input_size, 3 * settings.window))
    span = 1 / (len(artifacts) + 1)
    reference = compute_reference(encoder, Path(clip).name, tubelets, subrange(progress, 0.0, span))
    found = {}
    for i, artifact in enumerate(artifacts):
        backend = BackendConfig(artifact.runtime, "cpu", artifact.precision, threads=options.threads)
        state = cast(MeasuredState, load_backend(settings, backend).new_state())  # that of a graph has its tokens
        name = f"{artifact.runtime} {artifact.precision}"
        found[name] = compare(state, reference, subrange(progress, (i + 1) * span, span))
    return found


def table(record: Mapping[str, Any]) -> Table:
    """Tabulate a row per runtime and precision."""
    found = Table(title=f"{record['model']}, window {record['window']}, {record['threads'] or 'all'} threads")
    for name in ("step", "ms", "times torch fp32"):
        found.add_column(name, justify="left" if name == "step" else "right")
    for name, ms in record["step_ms"].items():
        found.add_row(name, f"{ms:.1f}", f"{record['times_torch_fp32'][name]:.2f}")
    return found
