"""Table of an export's artifacts, for terminals."""

from rich.console import Console
from rich.table import Table

from saccade_ros.backends.manifest import Manifest


def print_manifest(manifest: Manifest) -> None:
    """Print a row per artifact, with centred cosine on the held-out clip, and what was refused."""
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
