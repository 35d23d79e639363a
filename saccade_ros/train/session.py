"""One run of `saccade train causal`: clips in, an adapter, its curve and the record of both out."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from torch import Tensor

from saccade_ros.config import Config
from saccade_ros.encoder.weights import LoadedEncoder, load_encoder
from saccade_ros.measure.records import record_head, save_record
from saccade_ros.recordings.clip import read_tubelets
from saccade_ros.train.causal import CausalTrainer, TrainingError, TrainingPlan
from saccade_ros.train.views import MARGIN


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
        TrainingError: nothing to resume, something to overwrite, or a held-out clip too short to measure on.
        WeightsError, SourceError: the checkpoint or a clip cannot be read.
    """
    if not resume and (folder / "checkpoint.pt").exists():
        raise TrainingError(f"{folder} holds a training already: give --resume to go on, or another folder")
    if config.encoder.adapter:
        raise TrainingError(
            f"encoder.adapter is {config.encoder.adapter!r}: training starts from bare weights; unset it"
        )
    started = time.monotonic()
    loaded = load_encoder(plan.model, plan.window, seed=config.encoder.seed)
    size = loaded.encoder.spec.input_size

    def read(paths: Sequence[str], pixels: int) -> list[Tensor]:
        return [torch.from_numpy(read_tubelets(path, config, pixels, tubelets)) for path in paths]

    tests = read(held_out, size)
    for path, pixels in zip(held_out, tests, strict=True):
        if len(pixels) <= plan.window:
            raise TrainingError(
                f"{path} has {len(pixels)} tubelets, no more than the window of {plan.window}: hold out a longer one"
            )
    names = [Path(clip).name for clip in (*clips, *held_out)]
    trainer = CausalTrainer(loaded.encoder, loaded.sha256, plan, names, folder)
    if resume:
        trainer.resume()
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, TextColumn("{task.fields[note]}")) as bars:
        task = bars.add_task("", total=plan.steps, completed=trainer.progress.step, note="")
        for progress in trainer.run(read(clips, int(MARGIN * size)), tests):
            latest = progress.history[-1]
            loss = f"loss {latest['loss']:.3f}" if "loss" in latest else ""
            gaps = [f"gap on {name} {gap:.4f}" for name, gap in zip(names[len(clips) :], latest["gaps"], strict=True)]
            note = ", ".join(filter(None, (loss, *gaps)))
            bars.update(task, completed=progress.step, note=note)
    record = _record(loaded, trainer, clips, held_out, config, time.monotonic() - started)
    return [folder / "adapter.safetensors", save_record(record, folder / "training.json"), _draw_curve(folder, record)]


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
        **record_head(loaded.source, loaded.sha256),
        **{name: getattr(trainer.plan, name) for name in trainer.plan.__dataclass_fields__},
        "trained_on": [Path(clip).name for clip in clips],
        "held_out": [Path(clip).name for clip in held_out],
        "fps": config.stream.fps,
        "parameters": sum(tensor.numel() for tensor in trainer.adapter().tensors.values()),
        "history": trainer.progress.history,
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _draw_curve(folder: Path, record: dict[str, Any]) -> Path:
    """Gaps as shares of what they were, which is what the loss is, too."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes, rows = figure.subplots(), record["history"]
    steps = [row["step"] for row in rows]
    axes.plot(
        steps[1:], [row["loss"] for row in rows[1:]], color="0.7", label="loss on new views of the training clips"
    )
    for i, name in enumerate(record["held_out"]):
        gaps = [row["gaps"][i] for row in rows]
        label = f"gap on {name}: {gaps[0]:.4f}, in the end {gaps[-1]:.4f}"
        axes.plot(steps, [gap / gaps[0] for gap in gaps], marker=".", label=label)
    axes.axhline(1, color="black", linewidth=0.6, linestyle="--")
    axes.set(yscale="log", xlabel="training step", ylabel="share of the cached step without adapter")
    axes.set_title(f"causal adapter, rank {record['rank']}: {record['weights']}", fontsize=9)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.3)
    file = folder / "training.png"
    figure.savefig(file, dpi=100)
    return file
