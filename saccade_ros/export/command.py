"""`saccade export`: an export, and its artifacts as a table."""

from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from saccade_ros.backends.manifest import Artifact, Manifest
from saccade_ros.export.exporter import export
from saccade_ros.export.options import ExportOptions

Options = ExportOptions
run = export


def table(manifest: Manifest) -> RenderableType:
    """Make a row per artifact, with centred cosine on the held-out clip, and a line per artifact that was refused."""
    rows = Table(title=f"{manifest.model.source}, window {manifest.shape['window']}; torch is fp32")
    rows.add_column("artifact", no_wrap=True)
    for name in ("MB", "cosine", "p5", "worst (at)", "step ms", "torch ms"):
        rows.add_column(name, justify="right", no_wrap=True)
    for artifact in manifest.artifacts:
        rows.add_row(f"{artifact.runtime} {artifact.precision}", *_figures(artifact))
    kept = ((a, warning) for a in manifest.artifacts for warning in a.warnings)
    notes = [Text.assemble(("kept by force: ", "yellow"), f"{a.runtime} {a.precision}: {why}") for a, why in kept]
    notes += [Text.assemble(("refused: ", "red"), reason) for reason in manifest.refused]
    return Group(rows, *notes)


def save(manifest: Manifest, options: ExportOptions) -> list[Path]:
    """Return the folder, which the export itself has written."""
    return [manifest.folder]


def _figures(artifact: Artifact) -> list[str]:
    held_out, times = artifact.parity.get("held_out"), artifact.latency_ms
    if not held_out:
        return ["not measured", *"-----"]
    return [
        f"{artifact.parity['bytes'] / 1e6:.1f}",
        f"{held_out['centred_cosine_mean']:.5f}",
        f"{held_out['centred_cosine_p5']:.5f}",
        f"{held_out['centred_cosine_worst']:.5f} ({held_out['worst_tubelet']})",
        f"{times['step']:.1f}",
        f"{times['torch_fp32']:.1f}",
    ]
