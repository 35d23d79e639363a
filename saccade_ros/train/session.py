"""Command `saccade train causal`: clips in; an adapter, its curve and the record of both out."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter
from torch import Tensor

from saccade_ros.config import Config
from saccade_ros.encoder.weights import load_encoder
from saccade_ros.knobs import Settings, knob, required
from saccade_ros.measure.figures import plain
from saccade_ros.measure.progress import Progress
from saccade_ros.measure.records import record_head, save_record
from saccade_ros.recordings.clip import read_tubelets
from saccade_ros.storage import whole_path
from saccade_ros.train.causal import CausalTrainer, TrainingError, TrainingPlan, TrainingState
from saccade_ros.train.views import MARGIN


@dataclass(frozen=True)
class Options(Settings):
    """Clips to train and to measure on; the config's encoder, stream and vision sections say what becomes of them."""

    clips: tuple[str, ...] = required("Bags or videos to train on.", metavar="CLIP", positional=True)
    held_out: tuple[str, ...] = knob((), "Bags or videos to measure on, never trained on.", metavar="CLIP")
    out: Path = knob(
        Path("adapter"),
        "Folder for adapter.safetensors, checkpoint.pt, training.json and training.png.",
        metavar="FOLDER",
    )
    resume: bool = knob(False, "True goes on from the folder's checkpoint.")
    tubelets: int = knob(0, "Tubelets to take of each clip's start. 0 takes all.", at_least=0)
    plan: TrainingPlan = TrainingPlan()
    config: Config = Config()


def run(options: Options, progress: Progress) -> dict[str, Any]:
    """Train an adapter in the folder `out`; return the record.

    Raises:
        TrainingError: nothing to resume, something to overwrite, or a held-out clip too short to measure on.
        WeightsError, SourceError: the checkpoint or a clip cannot be read.
    """
    _check(options)
    started, encoder = time.monotonic(), options.config.encoder
    loaded = load_encoder(encoder.model, encoder.window, seed=encoder.seed, input_size=encoder.input_size)
    size = loaded.encoder.spec.input_size
    tests = _read(options.held_out, options, size)
    for path, pixels in zip(options.held_out, tests, strict=True):
        if len(pixels) <= encoder.window:
            raise TrainingError(
                f"{path} has {len(pixels)} tubelets, no more than the window of {encoder.window}: hold out a longer one"
            )
    names = [Path(clip).name for clip in (*options.clips, *options.held_out)]
    trainer = CausalTrainer(loaded.encoder, loaded.sha256, options.plan, names, options.out)
    if options.resume:
        trainer.resume()
    for state in trainer.run(_read(options.clips, options, int(MARGIN * size)), tests):
        progress(f"training: {_latest(state)}", state.step / options.plan.steps)
    return {
        "train": "causal",
        **record_head(loaded.source, loaded.sha256),
        "model": encoder.model,
        "window": encoder.window,
        **asdict(options.plan),
        "trained_on": names[: len(options.clips)],
        "held_out": names[len(options.clips) :],
        "fps": options.config.stream.fps,
        "parameters": sum(tensor.numel() for tensor in trainer.adapter().tensors.values()),
        "history": trainer.state.history,
        "seconds": round(time.monotonic() - started, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def table(record: dict[str, Any]) -> str:
    """State the gap on each held-out clip, before and after training."""
    first, last = record["history"][0]["gaps"], record["history"][-1]["gaps"]
    lines = (f"{n}: gap {a:.4f}, now {b:.4f}" for n, a, b in zip(record["held_out"], first, last, strict=True))
    return "\n".join((f"{record['steps']} steps, {record['seconds']:.0f} s", *lines))


def outputs(options: Options) -> list[Path]:
    """Return the files that `save` writes; training's own are beside them."""
    return [options.out / name for name in ("training.json", "training.png")]


def save(record: dict[str, Any], options: Options) -> list[Path]:
    """Write training.json and training.png beside the adapter, which training itself has written."""
    file = options.out / "training.json"
    return [
        options.out / "adapter.safetensors",
        save_record(record, file),
        draw_curve(record, file.with_suffix(".png")),
    ]


def _check(options: Options) -> None:
    if not options.resume and (options.out / "checkpoint.pt").exists():
        raise TrainingError(f"{options.out} holds a training already: give --resume to go on, or another folder")
    if options.config.encoder.adapter:
        raise TrainingError(
            f"encoder.adapter is {options.config.encoder.adapter!r}: training starts from bare weights; unset it"
        )


def _read(paths: Sequence[str], options: Options, size: int) -> list[Tensor]:
    """Pixels of each clip, (T, 2, 3, size, size)."""
    return [torch.from_numpy(read_tubelets(path, options.config, size, options.tubelets)) for path in paths]


def _latest(state: TrainingState) -> str:
    """The newest loss and gaps in words."""
    row = state.history[-1]
    loss = [f"loss {row['loss']:.3f}"] if "loss" in row else []
    return ", ".join(loss + [f"gap {gap:.4f}" for gap in row["gaps"]])


def draw_curve(record: dict[str, Any], file: Path) -> Path:
    """Draw gaps as fractions of those without adapter, as the loss is one, over the training."""
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
    axes.set(yscale="log", xlabel="training step", ylabel="fraction of the gap without adapter")
    axes.set_title(f"causal adapter, rank {record['rank']}: {plain(record['weights'])}", fontsize=9)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.3)
    with whole_path(file) as path:
        figure.savefig(path, dpi=100)
    return file
