"""Fidelity of the cached stream to the bidirectional clip encoder, and its price: `saccade evaluate fidelity`.

Reference: for each tubelet the clip encoder over the window that ends in it, which is the stream with recompute =
window. Measured once the window has filled. Beside it, how long an event stays visible (forgetting.py).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from saccade_ros.backends import Backend, load_backend
from saccade_ros.config import Config, EncoderConfig
from saccade_ros.knobs import Settings, knob, required
from saccade_ros.measure.metrics import centred_cosine, summarize
from saccade_ros.measure.progress import Progress, subrange
from saccade_ros.measure.records import record_head, save_record
from saccade_ros.measure.timing import spread
from saccade_ros.recordings.clip import read_tubelets
from saccade_ros.recordings.source import SourceError
from saccade_ros.studies.forgetting import measure_forgetting
from saccade_ros.studies.plots import draw_fidelity
from saccade_ros.studies.streamed import Streamed, Vectors, stream

LoadBackend = Callable[[EncoderConfig], Backend]


@dataclass(frozen=True)
class Options(Settings):
    """Clips to stream; the config's encoder section names the model, the window, the pooling and the adapter."""

    clips: tuple[Path, ...] = required(
        "Bags or videos; an event is cut from the second.", metavar="CLIP", positional=True
    )
    tubelets: int = knob(0, "Tubelets to take of each clip's start. 0 takes all.", at_least=0)
    out: Path = knob(Path("fidelity"), "Folder for fidelity.json and fidelity.png.", metavar="FOLDER")
    config: Config = Config()


@dataclass(frozen=True)
class Curve:
    """Family of settings, drawn as one line."""

    name: str
    settings: tuple[EncoderConfig, ...]


def run(options: Options, progress: Progress) -> dict[str, Any]:
    """Measure every setting on every clip; the event that fades is cut from the second clip.

    Raises:
        SourceError: a clip cannot be read, or is shorter than the window.
        BackendError, WeightsError, ConfigError: the model cannot be loaded as configured.
    """
    config, paths = options.config, options.clips
    load = partial(load_backend, backend=config.backend)
    progress("reading the clips", 0.0)
    plain = load(replace(config.encoder, adapter="", recompute=1)).info
    clips = [_read_clip(path, options, plain.input_size) for path in paths]
    started = time.monotonic()
    rows = measure_fidelity(config.encoder, clips, load, subrange(progress, 0.0, 0.8))
    event = clips[1] if len(clips) > 1 else clips[0][::-1]
    forgetting = measure_forgetting(config.encoder, clips[0], event, load, subrange(progress, 0.8, 0.2))
    return {
        "evaluate": "fidelity",
        **record_head(plain.weights, plain.weights_sha256),
        "clips": [{"name": path.name, "tubelets": len(clip)} for path, clip in zip(paths, clips, strict=True)],
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
        "event": f"{config.encoder.window} tubelets of {paths[min(1, len(paths) - 1)].name}, then a cut to "
        f"{paths[0].name}",
        "seconds": round(time.monotonic() - started, 1),
    }


def _read_clip(path: Path, options: Options, input_size: int) -> npt.NDArray[np.float32]:
    clip, window = read_tubelets(path, options.config, input_size, options.tubelets), options.config.encoder.window
    if len(clip) < window + 2:
        raise SourceError(
            f"{path} has {len(clip)} tubelets, hardly more than the window of {window}: "
            "give a longer recording or a smaller encoder.window"
        )
    return clip


def curves(encoder: EncoderConfig) -> tuple[Curve, ...]:
    """List the settings to measure: each recompute of the window, smaller windows, and the adapter's."""
    plain = replace(encoder, adapter="")
    window, smaller = encoder.window, _halvings(encoder.window)
    found = [
        Curve("window W, r = 1..W", tuple(replace(plain, recompute=r) for r in range(1, window + 1))),
        Curve("smaller windows, r = 1", tuple(replace(plain, window=w, recompute=1) for w in smaller)),
        Curve("smaller windows, r = W", tuple(replace(plain, window=w, recompute=w) for w in smaller if w > 1)),
    ]
    if encoder.adapter:
        powers = [*smaller, window]
        found.append(Curve("with the adapter, r = 1..W", tuple(replace(encoder, recompute=r) for r in powers)))
    return tuple(found)


def _halvings(window: int) -> list[int]:
    sizes = []
    while (window := window // 2) >= 1:
        sizes.append(window)
    return sizes[::-1]


def measure_fidelity(
    encoder: EncoderConfig, clips: Sequence[npt.NDArray[np.float32]], load: LoadBackend, progress: Progress
) -> list[dict[str, Any]]:
    """Compare every setting of every curve with the clip encoder.

    Args:
        clips: pixels (T, 2, 3, H, W), each longer than the window.
        load: makes a backend.

    Returns:
        JSON-ready rows: curve, window, recompute, adapter, ms, and mean, p5 and worst over all clips and by clip.
    """
    settings = [(curve.name, setting) for curve in curves(encoder) for setting in curve.settings]
    progress("the clip encoder", 0.0)
    clip_encoder = load(replace(encoder, adapter="", area_layers=0, recompute=encoder.window))
    references = [stream(clip_encoder, clip).vectors for clip in clips]
    rows = []
    for i, (name, setting) in enumerate(settings):
        what = f"{name}: window {setting.window}, recompute {setting.recompute}"
        progress(what, (i + 1) / (len(settings) + 1))
        backend = load(setting)
        streamed = [stream(backend, clip) for clip in clips]
        rows.append({"curve": name, **_row(setting, streamed, references, encoder.window - 1)})
    return rows


def _row(
    setting: EncoderConfig, streamed: Sequence[Streamed], references: Sequence[Vectors], first: int
) -> dict[str, Any]:
    """One setting over all clips, from the tubelet on at which the reference's window is full."""
    cosines = [
        centred_cosine(ours.vectors[first:], theirs[first:]) for ours, theirs in zip(streamed, references, strict=True)
    ]
    return {
        "window": setting.window,
        "recompute": setting.recompute,
        "adapter": bool(setting.adapter),
        "ms": spread([one.ms for one in streamed]).median,
        **summarize(np.concatenate(cosines))._asdict(),
        "clips": [summarize(of_clip)._asdict() for of_clip in cosines],
    }


def table(record: dict[str, Any]) -> Table:
    """Tabulate a row per setting; the caption tells how an event fades."""
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


def outputs(options: Options) -> list[Path]:
    """Return the files that `save` writes."""
    return [options.out / name for name in ("fidelity.json", "fidelity.png")]


def save(record: dict[str, Any], options: Options) -> list[Path]:
    """Write fidelity.json, and fidelity.png, which shows fidelity against its price and the fading of the event."""
    file = options.out / "fidelity.json"
    return [save_record(record, file), draw_fidelity(record, file.with_suffix(".png"))]
