"""One run of `saccade evaluate fidelity`: clips in, fidelity.png and fidelity.json out."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from saccade_ros.backends import Backend, load_backend
from saccade_ros.config import Config, EncoderConfig
from saccade_ros.measure.machine import describe_machine
from saccade_ros.recordings.clip import read_tubelets
from saccade_ros.recordings.source import SourceError
from saccade_ros.studies.fidelity import curves, measure_fidelity
from saccade_ros.studies.fidelity_plots import draw
from saccade_ros.studies.forgetting import measure_forgetting


def evaluate_fidelity(config: Config, paths: Sequence[str], tubelets: int = 0) -> dict[str, Any]:
    """Measure every setting on every clip.

    Args:
        config: its encoder section names the model, the window, the pooling and the adapter.
        tubelets: of each clip's start; 0 takes all.

    Returns:
        A JSON-ready record.

    Raises:
        SourceError: a clip cannot be read, or is shorter than the window.
        What loading the model raises.
    """

    def load(encoder: EncoderConfig) -> Backend:
        return load_backend(encoder, config.backend)

    plain = load(replace(config.encoder, adapter="", recompute=1)).info
    clips = [read_tubelets(path, config, plain.input_size, tubelets) for path in paths]
    for path, clip in zip(paths, clips, strict=True):
        if len(clip) < config.encoder.window + 2:
            raise SourceError(
                f"{path} has {len(clip)} tubelets, hardly more than the window of {config.encoder.window}: "
                "give a longer recording or a smaller encoder.window"
            )
    started = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as progress:
        settings = sum(len(curve.settings) for curve in curves(config.encoder))
        task = progress.add_task("", total=settings + 4)

        def advance(what: str) -> None:
            progress.update(task, advance=1, description=what)

        rows = measure_fidelity(config.encoder, clips, load, advance)
        event = clips[1] if len(clips) > 1 else clips[0][::-1]
        forgetting = measure_forgetting(config.encoder, clips[0], event, load, advance)
    return {
        "evaluate": "fidelity",
        "clips": [{"name": Path(p).name, "tubelets": len(clip)} for p, clip in zip(paths, clips, strict=True)],
        "weights": plain.weights,
        "weights_sha256": plain.weights_sha256,
        "adapter": Path(config.encoder.adapter).name,
        "backend": plain.backend,
        "precision": plain.precision,
        "threads": plain.threads,
        "input_size": plain.input_size,
        "depth": plain.depth,
        "window": config.encoder.window,
        "pooling": config.encoder.pooling,
        "fps": config.stream.fps,
        "fidelity": rows,
        "forgetting": forgetting,
        "event": f"{config.encoder.window} tubelets of {Path(paths[min(1, len(paths) - 1)]).name}, then a cut to "
        f"{Path(paths[0]).name}",
        "seconds": round(time.monotonic() - started, 1),
        "machine": describe_machine(),
    }


def save(record: dict[str, Any], folder: Path) -> list[Path]:
    """Write fidelity.json and fidelity.png."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "fidelity.json"
    file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return [file, draw(record, folder / "fidelity.png")]


def table(record: dict[str, Any]) -> Table:
    """The figures on screen."""
    fading = "; ".join(
        f"recompute {row['recompute']}: to a tenth after {row['forgotten_after']['0.1']} tubelets, gone at number "
        f"{row['receptive_field']}"
        for row in record["forgetting"]
    )
    title = f"Centred cosine to the clip encoder, {record['pooling']} pooling. {record['weights']}"
    found = Table(title=title, caption=f"An event fades. {fading}", caption_justify="left")
    found.add_column("", no_wrap=True)
    for column in ("W", "r", "ms/tubelet", "mean", "p5", "worst"):
        found.add_column(column, justify="right")
    for row in record["fidelity"]:
        figures = (f"{row[key]:.4f}" for key in ("mean", "p5", "worst"))
        found.add_row(row["curve"], str(row["window"]), str(row["recompute"]), f"{row['ms']:.1f}", *figures)
    return found
