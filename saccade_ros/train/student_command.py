"""Command `saccade train student`: a target cache in; a small encoder in transformers' format, and its curve, out."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from saccade_ros.encoder.weights import load_encoder
from saccade_ros.knobs import Settings, knob, required
from saccade_ros.measure.progress import Progress, subrange
from saccade_ros.measure.records import record_head, save_record
from saccade_ros.storage import whole_path
from saccade_ros.train.cache import TargetCache
from saccade_ros.train.causal import TrainingError
from saccade_ros.train.student_trainer import StudentPlan, StudentState, StudentTrainer

OVERFIT_DROP = 0.3  # of the loss, that memorising a few views must reach, else something is broken


@dataclass(frozen=True)
class Options(Settings):
    """Cache to train on, and the sizes of the student."""

    cache: Path = required("Folder that `saccade train cache` wrote.", metavar="CACHE", positional=True)
    out: Path = knob(
        Path("student"),
        "Folder for the student, checkpoint.pt, training.json and training.png.",
        metavar="FOLDER",
    )
    resume: bool = knob(False, "True goes on from the folder's checkpoint.")
    plan: StudentPlan = StudentPlan()


def run(options: Options, progress: Progress) -> dict[str, Any]:
    """Train a student in the folder `out`; return the record.

    Raises:
        TrainingError: nothing to resume, something to overwrite, or a plan that does not suit the cache.
        CacheError: the cache is unfinished, damaged or another one.
    """
    if not options.resume and (options.out / "checkpoint.pt").exists():
        raise TrainingError(f"{options.out} holds a training already: give --resume to go on, or another folder")
    started, plan = time.monotonic(), options.plan
    cache = TargetCache(options.cache, subrange(progress, 0.0, 0.05))
    trainer = StudentTrainer(cache, plan, options.out)
    if options.resume:
        trainer.resume()
    for state in trainer.run():
        progress(f"training: {_latest(state)}", 0.05 + 0.95 * state.step / plan.steps)
    result = load_encoder(str(trainer.result), trainer.spec.trained_tubelets)
    return {
        "train": "student",
        **record_head(result.source, result.sha256),
        "cache": {"views": cache.views, "digest": cache.digest, "teacher": cache.lock["teacher"]},
        **{("loss_weights" if name == "weights" else name): value for name, value in asdict(plan).items()},
        "model": str(trainer.result),
        "parameters": sum(parameter.numel() for parameter in result.encoder.parameters()),
        "history": trainer.state.history,
        "loss_drop": loss_drop(trainer.state),
        "seconds": round(time.monotonic() - started, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def loss_drop(state: StudentState) -> float:
    """Compute the fraction by which the loss of the last steps is below that of the first."""
    first, last = state.history[0]["loss"], state.history[-1]["loss"]
    return 1 - last / first


def exit_status(record: dict[str, Any]) -> int:
    """Return 1 if a training that should only memorise a few views did not."""
    return int(bool(record["overfit"]) and record["loss_drop"] < OVERFIT_DROP)


def table(record: dict[str, Any]) -> str:
    """State sizes and losses."""
    first, last = record["history"][0], record["history"][-1]
    parts = [f"  {name}: {first[name]:.3f}, now {last[name]:.3f}" for name in first if name != "step"]
    head = f"{record['parameters'] / 1e6:.1f} M parameters, {record['steps']} steps, {record['seconds']:.0f} s"
    return "\n".join((head, *parts))


def outputs(options: Options) -> list[Path]:
    """Return the files that `save` writes; training's own are beside them."""
    return [options.out / name for name in ("training.json", "training.png")]


def save(record: dict[str, Any], options: Options) -> list[Path]:
    """Write training.json and training.png beside the student, which training itself has written."""
    file = options.out / "training.json"
    return [
        Path(record["model"]),
        save_record(record, file),
        draw_losses(record, file.with_suffix(".png")),
    ]


def _latest(state: StudentState) -> str:
    return f"loss {state.history[-1]['loss']:.3f}" if state.history else "first steps"


def draw_losses(record: dict[str, Any], file: Path) -> Path:
    """Draw every part of the loss over the training."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes, rows = figure.subplots(), record["history"]
    for name in rows[0]:
        if name not in ("step", "loss"):
            axes.plot([row["step"] for row in rows], [row[name] for row in rows], label=name)
    axes.set(xlabel="training step", ylabel="loss, weighted")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.3)
    with whole_path(file) as path:
        figure.savefig(path, dpi=100)
    return file
