"""Accuracy of a linear and an attentive probe of the frozen encoder on labelled clips: `saccade evaluate probe`.

The linear probe sees the mean of a clip's embeddings, the attentive one the tokens of some of its tubelets. Both are
fitted on the train split and read once on the test split. Controls: the linear probe on 16 x 16 pixels, and on the
same architecture untrained.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from rich.table import Table

from saccade_ros.backends import Backend, BackendError, load_backend
from saccade_ros.backends.torch_backend import TorchBackend
from saccade_ros.config import Config
from saccade_ros.knobs import Settings, knob
from saccade_ros.measure.metrics import bootstrap
from saccade_ros.measure.progress import Progress, subrange
from saccade_ros.measure.records import record_head
from saccade_ros.recordings.labelled import (
    TEST,
    TRAIN,
    LabelledClip,
    LabelledOptions,
    describe_labelled,
    of_split,
    read_labelled,
)
from saccade_ros.studies.attentive import AttentivePlan, TokenColumn, name_clips, train_attentive
from saccade_ros.studies.columns import ENCODER, ClipEmbedder, EmbeddedClip, make_columns, mean_vectors
from saccade_ros.studies.linear import chance_level, probe_linearly, score_labels


@dataclass(frozen=True)
class Options(Settings):
    """Labelled clips in two splits; the config names the encoder, and how clips are sampled."""

    data: LabelledOptions
    attentive: AttentivePlan = AttentivePlan()
    controls: bool = knob(True, "False leaves out pixels and the untrained encoder, which takes as long as the other.")
    tubelets: int = knob(0, "Tubelets to take of each clip's start. 0 takes all.", at_least=0)
    config: Config = Config()


def run(options: Options, progress: Progress) -> dict[str, Any]:
    """Embed every clip once, fit the probes on the train split, and read them on the test split.

    Raises:
        SourceError: the splits are not held out, or a clip cannot be read.
        BackendError: an attentive probe is asked for and the runtime gives no tokens.
        WeightsError, ConfigError: the model cannot be loaded as configured.
    """
    started, config = time.monotonic(), options.config
    clips = read_labelled(options.data)
    backend = load_backend(config.encoder, config.backend, config.vision.fit)
    with tempfile.TemporaryFile() as file:
        rows = _probe(options, clips, backend, file, progress)
    return {
        "evaluate": "probe",
        **record_head(backend.info.weights, backend.info.weights_sha256),
        "encoder_id": backend.info.encoder_id,
        "data": describe_labelled(options.data, clips),
        "window": backend.info.window,
        "fps": config.stream.fps,
        "tubelets": options.tubelets,
        "chance": chance_level(clips),
        "probes": rows,
        "seconds": round(time.monotonic() - started, 1),
    }


def _probe(
    options: Options, clips: Sequence[LabelledClip], backend: Backend, file: IO[bytes], progress: Progress
) -> list[dict[str, Any]]:
    """Embed the clips, their tokens into `file`, and make a row for each probe."""
    plan, columns = options.attentive, make_columns(options.config, backend, options.controls)
    tokens = _token_column(backend, file, plan) if plan.token_tubelets else None
    if tokens:
        columns[ENCODER] = tokens
    embedding, size = subrange(progress, 0.0, 0.8), backend.info.input_size
    embed = ClipEmbedder(options.config, size, columns, options.tubelets, embedding, len(clips))
    embedded = [embed(clip.path) for clip in clips]
    rows = [_linear_row(embedded, clips, column) for column in columns]
    return [*rows, _attentive_row(tokens, clips, plan, subrange(progress, 0.8, 0.2))] if tokens else rows


def _token_column(backend: Backend, file: IO[bytes], plan: AttentivePlan) -> TokenColumn:
    if not isinstance(backend, TorchBackend):
        raise BackendError(
            f"the attentive probe needs tokens, which backend {backend.info.backend} does not give: give a checkpoint "
            "that torch runs, or --token-tubelets 0 for the linear probe alone"
        )
    return TokenColumn(backend, file, plan.token_tubelets)


def _linear_row(embedded: Sequence[EmbeddedClip], clips: Sequence[LabelledClip], column: str) -> dict[str, Any]:
    names, strength = probe_linearly(mean_vectors(embedded, column), clips)
    return {"probe": "linear", "of": column, **_score(names, clips), "strength": strength}


def _attentive_row(
    tokens: TokenColumn, clips: Sequence[LabelledClip], plan: AttentivePlan, progress: Progress
) -> dict[str, Any]:
    train_idx, test_idx = ([n for n, clip in enumerate(clips) if clip.split == split] for split in (TRAIN, TEST))
    probe = train_attentive(tokens, train_idx, [clips[n].label for n in train_idx], plan, progress)
    row = {"probe": "attentive", "of": ENCODER, **_score(name_clips(probe, tokens, test_idx), clips)}
    return {**row, "epochs": plan.epochs, "token_tubelets": plan.token_tubelets, "seed": plan.seed}


def _score(names: Sequence[str], clips: Sequence[LabelledClip]) -> dict[str, Any]:
    """Accuracy on the test split with its uncertainty over recordings, and by label."""
    test = of_split(clips, TEST)
    right = np.array([name == clip.label for name, clip in zip(names, test, strict=True)])
    accuracy = bootstrap(right, [clip.origin for clip in test])
    return {"accuracy": accuracy._asdict(), "by_label": score_labels(names, test)}


def table(record: dict[str, Any]) -> Table:
    """Tabulate a row per probe; the caption names the labels that are hardest for the last one."""
    data, last = record["data"], record["probes"][-1]
    found = Table(title=f"{data['test']} test clips, {len(data['labels'])} labels. {record['weights']}")
    for name in ("probe", "of"):
        found.add_column(name)
    for name in ("accuracy", "95 % interval"):
        found.add_column(name, justify="right")
    for row in record["probes"]:
        mean, low, high = (row["accuracy"][key] for key in ("mean", "low", "high"))
        found.add_row(row["probe"], row["of"], f"{mean:.1%}", f"{low:.1%} to {high:.1%}")
    found.add_row("chance", "most frequent label", f"{record['chance']:.1%}", "")
    by_label = sorted(last["by_label"].items(), key=lambda item: item[1])
    worst = ", ".join(f"{label} {accuracy:.0%}" for label, accuracy in by_label[:3])
    found.caption = f"hardest labels of the {last['probe']} probe: {worst}"
    return found
