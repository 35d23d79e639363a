"""Usefulness of embeddings on clips that the encoder never saw, beside its controls: `saccade evaluate usefulness`.

Every clip is streamed as a robot sees it, from an empty cache and without gate. A measure is a row, what made the
vectors a column: pixels, the same architecture untrained, a teacher if one is given, and the encoder.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from rich.table import Table

from saccade_ros.backends import load_backend
from saccade_ros.config import Config
from saccade_ros.knobs import Settings, knob, required
from saccade_ros.measure.progress import Progress
from saccade_ros.measure.records import record_head
from saccade_ros.recordings.labelled import TEST, LabelledClip, LabelledOptions, of_split, read_labelled
from saccade_ros.recordings.source import SourceError
from saccade_ros.storage import sha256_of
from saccade_ros.studies.columns import ClipEmbedder, EmbeddedClip, make_columns, mean_vectors
from saccade_ros.studies.jitter import jitter
from saccade_ros.studies.linear import chance_level, probe_linearly, score_labels
from saccade_ros.studies.moments import (
    Measured,
    Moments,
    nearest_other_moment,
    nearest_place,
    right_moment,
    same_clip_auc,
)
from saccade_ros.studies.plots import draw_usefulness
from saccade_ros.train.teachers import Teacher, load_teacher

ENOUGH_CLIPS = 8
TITLES = {
    "auc": "AUC, same clip at least 2 s apart against other clips",
    "nearest": "nearest neighbour is of the same clip, gap at least 2 s",
    "jitter": "light and noise jitter, right moment within 0.5 s on top",
    "doom": "unseen Doom map, nearest neighbour",
    "panoramas": "unseen panorama's place, nearest neighbour",
    "motion": "direction of camera motion, linear probe",
}

ByColumn = Mapping[str, Measured]


@dataclass(frozen=True)
class Options(Settings):
    """Clips that the encoder was not trained on; the config names the encoder, and how clips are sampled."""

    clips: tuple[Path, ...] = required(
        "Bags or videos of different places, at least two, better eight, each longer than 2 s.",
        metavar="CLIP",
        positional=True,
    )
    doom: tuple[Path, ...] = knob(
        (), "Clips of unseen Doom maps; several in the same folder show the same map.", metavar="CLIP"
    )
    panoramas: tuple[Path, ...] = knob(
        (), "Clips made of unseen panoramas; several in the same folder show the same place.", metavar="CLIP"
    )
    motion: Path | None = knob(
        None, "Folder with train/LABEL/CLIP and test/LABEL/CLIP, labelled by the camera's motion.", metavar="FOLDER"
    )
    teacher: str = knob(
        "",
        "Model for a column of its own, as `saccade train cache` takes it, such as an ONNX file.",
        metavar="FILE",
    )
    tubelets: int = knob(0, "Tubelets to take of each clip's start. 0 takes all.", at_least=0)
    seed: int = knob(0, "Seed of the light and the noise.", at_least=0)
    config: Config = Config()


def run(options: Options, progress: Progress) -> dict[str, Any]:
    """Measure every row that there are clips for, in every column.

    Raises:
        SourceError: fewer than two clips in a set, the same clip twice, a clip that cannot be read, or none long
            enough.
        BackendError, WeightsError, ConfigError: the model cannot be loaded as configured.
        TeacherError: nor can the teacher.
    """
    started, config = time.monotonic(), options.config
    sets = {"clips": options.clips, "doom": options.doom, "panoramas": options.panoramas}
    hashes = {name: _hash_clips(paths) for name, paths in sets.items() if paths}
    labelled = read_labelled(LabelledOptions(options.motion)) if options.motion else ()
    backend = load_backend(config.encoder, config.backend, config.vision.fit)
    info, teacher = backend.info, load_teacher(options.teacher, tubelets=1) if options.teacher else None
    columns, count = make_columns(config, backend, teacher=teacher), len([*chain(*sets.values()), *labelled])
    embed = ClipEmbedder(config, info.input_size, columns, options.tubelets, progress, count)
    embedded = {name: _embed(embed, sets[name], options.seed if name == "clips" else None) for name in hashes}
    measured = measure_clips(embedded["clips"])
    measured |= {name: measure_places(embedded[name], sets[name]) for name in ("doom", "panoramas") if name in embedded}
    if labelled:
        measured["motion"] = measure_motion([embed(clip.path) for clip in labelled], labelled)
    return {
        "evaluate": "usefulness",
        **record_head(info.weights, info.weights_sha256),
        "encoder_id": info.encoder_id,
        "teacher": _describe_teacher(teacher) if teacher else None,
        "window": info.window,
        "recompute": info.recompute,
        "pooling": config.encoder.pooling,
        "fps": config.stream.fps,
        "seed": options.seed,
        "clips": {name: _describe(clips, hashes[name]) for name, clips in embedded.items()},
        "motion": [{"split": clip.split, "label": clip.label, **_describe_file(clip.path)} for clip in labelled],
        "measures": [_describe_row(name, row) for name, row in measured.items()],
        "warnings": _warnings(options, info.weights_random),
        "seconds": round(time.monotonic() - started, 1),
    }


def _hash_clips(paths: Sequence[Path]) -> list[str]:
    """SHA-256 of each clip of a set.

    Raises:
        SourceError: there is one clip only, or one twice: each would be found in the other.
    """
    if len(paths) < 2:
        raise SourceError(f"{paths[0]} is the only clip of its set: give at least two, of different places")
    for path in paths:
        if not path.exists():
            raise SourceError(f"{path} does not exist: give bags or videos")
    hashes = [sha256_of(path) for path in paths]
    for n, digest in enumerate(hashes):
        if digest in hashes[:n]:
            raise SourceError(f"{paths[n]} and {paths[hashes.index(digest)]} are the same clip: give each once")
    return hashes


def _embed(embed: ClipEmbedder, paths: Sequence[Path], seed: int | None) -> list[EmbeddedClip]:
    """Embed a set of clips by names that tell them apart, each in a light of its own as well if there is a seed."""
    short = [path.name for path in paths]
    names = [p.name if short.count(p.name) == 1 else f"{p.resolve().parent.name}/{p.name}" for p in paths]
    names = names if len(set(names)) == len(names) else [str(path) for path in paths]
    lights = [None if seed is None else partial(jitter, seed=seed + n) for n in range(len(paths))]
    return [embed(path, name, light) for path, name, light in zip(paths, names, lights, strict=True)]


def measure_clips(clips: Sequence[EmbeddedClip]) -> dict[str, ByColumn]:
    """Measure the rows that need no more than clips of different places, jittered."""
    measures: dict[str, Callable[[Moments], Measured]] = {
        "auc": same_clip_auc,
        "nearest": nearest_other_moment,
        "jitter": right_moment,
    }
    return {name: _by_column(clips, measure) for name, measure in measures.items()}


def measure_places(clips: Sequence[EmbeddedClip], paths: Sequence[Path]) -> ByColumn:
    """Measure how often the nearest neighbour shows the same place."""
    return _by_column(clips, lambda moments: nearest_place(moments, places_of(paths)))


def _by_column(clips: Sequence[EmbeddedClip], measure: Callable[[Moments], Measured]) -> ByColumn:
    return {column: measure(Moments.of(clips, column)) for column in clips[0].vectors}


def places_of(paths: Sequence[Path]) -> list[str]:
    """Name the place of each clip: the folder it is in, if it shares that with another clip, else the clip itself.

    Where all clips are in one folder, each is a place of its own.
    """
    folders = [str(path.resolve().parent) for path in paths]
    alone = len(set(folders)) == 1
    return [str(p) if alone or folders.count(f) == 1 else f for p, f in zip(paths, folders, strict=True)]


def measure_motion(embedded: Sequence[EmbeddedClip], clips: Sequence[LabelledClip]) -> ByColumn:
    """Measure the accuracy of a linear probe, on the test split, on each clip's mean embedding."""
    test, chance = of_split(clips, TEST), chance_level(clips)
    found = {}
    for column in embedded[0].vectors:
        names = probe_linearly(mean_vectors(embedded, column), clips).names
        right = sum(name == clip.label for name, clip in zip(names, test, strict=True)) / len(test)
        found[column] = Measured(right, chance, score_labels(names, test))
    return found


def _describe(clips: Sequence[EmbeddedClip], hashes: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"name": clip.name, "sha256": digest, "tubelets": len(clip.stamps_s)}
        for clip, digest in zip(clips, hashes, strict=True)
    ]


def _describe_row(name: str, row: ByColumn) -> dict[str, Any]:
    return {"name": name, "title": TITLES[name], "columns": {column: asdict(one) for column, one in row.items()}}


def _describe_file(path: Path) -> dict[str, str]:
    return {"name": path.name, "sha256": sha256_of(path)}


def _describe_teacher(teacher: Teacher) -> dict[str, str]:
    return {"name": teacher.name, "sha256": teacher.weights_sha256}


def _warnings(options: Options, is_random: bool) -> list[str]:
    count = len(options.clips)
    few = f"{count} clips are too few to tell encoders apart: give at least {ENOUGH_CLIPS}"
    random = "the encoder's weights are random: it is a second untrained control"
    return [text for text, applies in ((few, count < ENOUGH_CLIPS), (random, is_random)) if applies]


def table(record: dict[str, Any]) -> Table:
    """Tabulate a row per measure and a column per encoder; the caption holds what to beware of."""
    measures = record["measures"]
    found = Table(title=f"Usefulness on held-out clips. {record['weights']}", caption="; ".join(record["warnings"]))
    found.add_column("held-out measure")
    for column in (*measures[0]["columns"], "chance"):
        found.add_column(column, justify="right")
    for row in measures:
        columns = row["columns"].values()
        found.add_row(row["title"], *(f"{one['value']:.3f}" for one in columns), f"{next(iter(columns))['chance']:.3f}")
    return found


def draw(record: dict[str, Any], file: Path) -> Path:
    """Draw the table as bars, with a dot for each clip."""
    return draw_usefulness(record, file)
