"""What an export looks like on a screen, and how its artifacts race against torch once they are made."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from saccade_ros.backends import load_backend
from saccade_ros.backends.manifest import Manifest, read_manifest
from saccade_ros.backends.onnx_backend import OnnxBackend
from saccade_ros.config import BackendConfig, Config, EncoderConfig
from saccade_ros.encoder.weights import load_encoder
from saccade_ros.export.exporter import installed_versions
from saccade_ros.export.graph import ExportError
from saccade_ros.export.parity import compare, compute_reference, race
from saccade_ros.measure.machine import describe_machine
from saccade_ros.recordings.clip import read_tubelets


class ProgressBar(Progress):
    """One bar for a whole export."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        super().__init__(*columns, transient=True)
        self._task = self.add_task("starting", total=1.0)

    def update(self, what: Any, share: Any, **_: Any) -> None:  # type: ignore[override]  # an exporter's Progress
        """Say what is being done, and the share of the whole."""
        super().update(self._task, description=what, completed=share)


def print_manifest(manifest: Manifest) -> None:
    """A row per artifact, centred cosine on the held-out clip, and what was refused."""
    table = Table(title=f"{manifest.model.source}, window {manifest.shape['window']}; torch is fp32")
    table.add_column("artifact", no_wrap=True)
    for name in ("MB", "cosine", "p5", "worst (at)", "step ms", "torch ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for artifact in manifest.artifacts:
        held_out, times = artifact.parity.get("held_out"), artifact.latency_ms
        figures = ["not measured", *"-----"]
        if held_out:
            figures = [
                f"{artifact.parity['bytes'] / 1e6:.1f}",
                f"{held_out['centred_cosine_mean']:.5f}",
                f"{held_out['centred_cosine_p5']:.5f}",
                f"{held_out['centred_cosine_worst']:.5f} ({held_out['worst_tubelet']})",
                f"{times['step']:.1f}",
                f"{times['torch_fp32']:.1f}",
            ]
        table.add_row(f"{artifact.runtime} {artifact.precision}", *figures)
    console = Console()
    console.print(table)
    console.print(manifest.folder, soft_wrap=True)
    for artifact in manifest.artifacts:
        for warning in artifact.warnings:
            console.print(f"[yellow]kept by force:[/] {artifact.runtime} {artifact.precision}: {warning}")
    for reason in manifest.refused:
        console.print(f"[red]refused:[/] {reason}")


def bench_export(folder: str, model: str, threads: int, rounds: int, clips: Sequence[str] = ()) -> dict[str, Any]:
    """Median milliseconds of a step on a full cache: torch in each precision and each ONNX artifact, in turn.

    Args:
        clips: bags or videos; parity of each ONNX artifact is taken over the first 3W tubelets of each.

    Raises:
        ExportError: the folder was exported from other weights than `model`'s.
    """
    manifest = read_manifest(folder)
    shape = manifest.shape
    sizes: dict[str, Any] = {"window": shape["window"], "recompute": shape["recompute"]}
    steps: dict[str, Callable[[], None]] = {}
    for precision in ("fp32", "bf16", "int8"):
        backend = BackendConfig(name="torch", device="cpu", precision=precision, threads=threads)
        steps[f"torch {precision}"] = _stepper(EncoderConfig(model=model, **sizes), backend, manifest)
    for artifact in manifest.artifacts:
        if artifact.runtime == "onnxruntime":
            backend = BackendConfig(name="onnxruntime", device="cpu", precision=artifact.precision, threads=threads)
            stepper = _stepper(EncoderConfig(model=folder, **sizes), backend, manifest)
            steps[f"onnxruntime {artifact.precision}"] = stepper
    times = race(steps, rounds, lambda share: None)
    return {
        "bench": "export",
        "model": model,
        "weights": manifest.model.source,
        **sizes,
        "threads": threads,
        "rounds": rounds,
        "step_ms": times,
        "times_torch_fp32": {name: round(times["torch fp32"] / ms, 2) for name, ms in times.items()},
        "parity": [_parity(manifest, folder, model, threads, clip) for clip in clips],
        "machine": describe_machine(),
        "versions": installed_versions(),
    }


def _parity(manifest: Manifest, folder: str, model: str, threads: int, clip: str) -> dict[str, Any]:
    """Each ONNX artifact against torch fp32 over three windows of a clip."""
    shape = manifest.shape
    encoder = load_encoder(model, shape["window"], shape["recompute"]).encoder
    tubelets = list(read_tubelets(clip, Config(), manifest.spec.input_size, 3 * shape["window"]))
    reference = compute_reference(encoder, Path(clip).name, tubelets, lambda share: None)
    settings = EncoderConfig(model=folder, window=shape["window"], recompute=shape["recompute"])
    found = {}
    for artifact in (a for a in manifest.artifacts if a.runtime == "onnxruntime"):
        backend = OnnxBackend(settings, BackendConfig(device="cpu", precision=artifact.precision, threads=threads))
        found[f"onnxruntime {artifact.precision}"] = compare(backend.new_state(), reference, lambda share: None)
    return found


def _stepper(encoder: EncoderConfig, backend: BackendConfig, manifest: Manifest) -> Callable[[], None]:
    """One step of a loaded backend on a full cache."""
    loaded = load_backend(encoder, backend)
    if loaded.info.weights_sha256 != manifest.model.sha256:
        raise ExportError(
            f"{encoder.model} has weights {loaded.info.weights_sha256[:12]}, the export {manifest.model.sha256[:12]}: "
            "give --model what it was exported from"
        )
    size, state = loaded.info.input_size, loaded.new_state()
    noise = np.random.default_rng(0).standard_normal((2, 3, size, size)).astype(np.float32)
    patches = loaded.embed(noise).patches

    def step() -> None:
        state.step(patches)

    for _ in range(encoder.window + 1):
        step()
    return step


def print_race(result: dict[str, Any]) -> None:
    """A row per runtime and precision."""
    table = Table(title=f"{result['model']}, window {result['window']}, {result['threads'] or 'all'} threads")
    for name in ("step", "ms", "times torch fp32"):
        table.add_column(name, justify="left" if name == "step" else "right")
    for name, ms in result["step_ms"].items():
        table.add_row(name, f"{ms:.1f}", f"{result['times_torch_fp32'][name]:.2f}")
    Console().print(table)
