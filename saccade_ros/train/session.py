"""One run of `saccade train causal`: clips in, an adapter, its curve and the record of both out."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from saccade_ros.config import Config
from saccade_ros.encoder.weights import LoadedEncoder, load_encoder
from saccade_ros.machine import describe_machine
from saccade_ros.replay.clip import read_tubelets
from saccade_ros.train.causal import CausalTrainer, Lesson, TrainingError, TrainingPlan, prepare
from saccade_ros.train.views import MARGIN, random_view


def train_causal(
    config: Config,
    plan: TrainingPlan,
    clips: Sequence[str],
    held_out: Sequence[str],
    folder: Path,
    resume: bool = False,
    tubelets: int = 0,
) -> list[Path]:
    """Train on `clips`, measure on `held_out`; the frames are taken as config's stream and vision sections say.

    Args:
        folder: gets adapter.safetensors, training.json, training.png and checkpoint.pt.
        resume: go on from folder's checkpoint.
        tubelets: of each clip's start; 0 takes all.

    Raises:
        TrainingError: nothing to resume, or something to overwrite.
        WeightsError, SourceError: the checkpoint or a clip cannot be read.
    """
    if not resume and (folder / "checkpoint.pt").exists():
        raise TrainingError(f"{folder} holds a training already: give --resume to go on, or another folder")
    if config.encoder.adapter:
        raise TrainingError(
            f"encoder.adapter is {config.encoder.adapter!r}: training starts from bare weights; unset it"
        )
    started = time.monotonic()
    loaded = load_encoder(plan.model, plan.window, plan.window, config.encoder.seed)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, TextColumn("{task.fields[note]}")) as bars:
        lessons = _lessons(loaded, config, plan, clips, tubelets, bars)
        tests = [_held_out(loaded, config, path, tubelets, bars) for path in held_out]
        names = [Path(clip).name for clip in (*clips, *held_out)]
        trainer = CausalTrainer(loaded.encoder, loaded.sha256, plan, names, folder)
        if resume:
            trainer.resume()
        task = bars.add_task("training", total=plan.steps, completed=trainer.progress.step, note="")
        for progress in trainer.run(lessons, tests):
            gap = progress.history[-1].get("held_out_gap")
            note = f"loss {progress.loss:.4f}" + ("" if gap is None else f", held-out gap {gap:.4f}")
            bars.update(task, completed=progress.step, note=note)
    record = _record(loaded, trainer, clips, held_out, config, time.monotonic() - started)
    return [folder / "adapter.safetensors", _write_json(folder, record), _draw_curve(folder, record)]


def _lessons(
    loaded: LoadedEncoder, config: Config, plan: TrainingPlan, paths: Sequence[str], tubelets: int, bars: Bars
) -> list[Lesson]:
    """Views of every clip, as the teacher sees them."""
    size, generator = loaded.encoder.spec.input_size, torch.Generator().manual_seed(plan.seed)
    task = bars.add_task("teacher sees the views", total=len(paths) * plan.views * plan.span, note="")
    lessons = []
    for path in paths:
        pixels = torch.from_numpy(read_tubelets(path, config, int(MARGIN * size), tubelets))
        for _ in range(plan.views):
            view = random_view(pixels, size, plan.span, generator)
            lessons.append(prepare(loaded.encoder, view, lambda: bars.advance(task)))
    return lessons


def _held_out(loaded: LoadedEncoder, config: Config, path: str, tubelets: int, bars: Bars) -> Lesson:
    """A clip as it is."""
    pixels = torch.from_numpy(read_tubelets(path, config, loaded.encoder.spec.input_size, tubelets))
    task = bars.add_task(f"teacher sees {Path(path).name}", total=len(pixels), note="held out")
    return prepare(loaded.encoder, pixels, lambda: bars.advance(task))


def _record(
    loaded: LoadedEncoder,
    trainer: CausalTrainer,
    clips: Sequence[str],
    held_out: Sequence[str],
    config: Config,
    seconds: float,
) -> dict[str, Any]:
    return {
        "train": "causal",
        "weights": loaded.source,
        "weights_sha256": loaded.sha256,
        **{name: getattr(trainer.plan, name) for name in trainer.plan.__dataclass_fields__},
        "trained_on": [Path(clip).name for clip in clips],
        "held_out": [Path(clip).name for clip in held_out],
        "fps": config.stream.fps,
        "parameters": sum(tensor.numel() for tensor in trainer.adapter().tensors.values()),
        "history": trainer.progress.history,
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "machine": describe_machine(),
        "torch": torch.__version__,
    }


def _write_json(folder: Path, record: dict[str, Any]) -> Path:
    file = folder / "training.json"
    partial = folder / ".training.json.partial"
    partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, file)
    return file


def _draw_curve(folder: Path, record: dict[str, Any]) -> Path:
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for key, colour, label in (
        ("loss", "#56b4e9", "loss on the training clips"),
        ("held_out_gap", "#e69f00", f"gap on {', '.join(record['held_out'])}"),
    ):
        rows = [row for row in record["history"] if key in row]
        axes.plot([row["step"] for row in rows], [row[key] for row in rows], color=colour, label=label, marker=".")
    axes.set(yscale="log", xlabel="training step", title=f"causal adapter, rank {record['rank']}: {record['weights']}")
    axes.title.set_fontsize(9)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    file = folder / "training.png"
    figure.savefig(file, dpi=100)
    return file
