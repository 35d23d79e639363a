"""Retrieval of clips that show the same as a clip: `saccade evaluate retrieval`.

Video to video, without training: each clip of the test split is a query, the train split is the gallery, and a gallery
clip is right if it bears the query's label. Clips are compared by the cosine of their mean embeddings, less the mean
of the gallery.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from saccade_ros.backends import load_backend
from saccade_ros.config import Config
from saccade_ros.knobs import Settings, knob
from saccade_ros.measure.metrics import bootstrap, cosine_table
from saccade_ros.measure.progress import Progress
from saccade_ros.measure.records import record_head
from saccade_ros.measure.retrieval import average_precision, rank, recall_at
from saccade_ros.recordings.labelled import (
    TEST,
    TRAIN,
    LabelledClip,
    LabelledOptions,
    describe_labelled,
    of_split,
    read_labelled,
)
from saccade_ros.studies.columns import ClipEmbedder, make_columns, mean_vectors
from saccade_ros.studies.streamed import Vectors

MEASURES = ("R@1", "R@5", "mAP")
QUERIES_AT_ONCE = 256


@dataclass(frozen=True)
class Options(Settings):
    """Labelled clips in two splits; the config names the encoder, and how clips are sampled."""

    data: LabelledOptions
    controls: bool = knob(True, "False leaves out pixels and the untrained encoder, which takes as long as the other.")
    tubelets: int = knob(0, "Tubelets to take of each clip's start. 0 takes all.", at_least=0)
    config: Config = Config()


def run(options: Options, progress: Progress) -> dict[str, Any]:
    """Embed every clip once and rank the train split for each clip of the test split, column by column.

    Raises:
        SourceError: the splits are not held out, or a clip cannot be read.
        BackendError, WeightsError, ConfigError: the model cannot be loaded as configured.
    """
    started, config = time.monotonic(), options.config
    clips = read_labelled(options.data)
    backend = load_backend(config.encoder, config.backend, config.vision.fit)
    columns = make_columns(config, backend, options.controls)
    embed = ClipEmbedder(config, backend.info.input_size, columns, options.tubelets, progress, len(clips))
    embedded = [embed(clip.path) for clip in clips]
    return {
        "evaluate": "retrieval",
        **record_head(backend.info.weights, backend.info.weights_sha256),
        "encoder_id": backend.info.encoder_id,
        "data": describe_labelled(options.data, clips),
        "window": backend.info.window,
        "fps": config.stream.fps,
        "tubelets": options.tubelets,
        "rows": [{"of": column, **retrieve(mean_vectors(embedded, column), clips)} for column in columns],
        "seconds": round(time.monotonic() - started, 1),
    }


def retrieve(vectors: Vectors, clips: Sequence[LabelledClip]) -> dict[str, Any]:
    """Measure retrieval with vectors (N, dim) of these clips: each of MEASURES, with its uncertainty."""
    tests = np.array([clip.split == TEST for clip in clips])
    queries, gallery = of_split(clips, TEST), np.array([clip.label for clip in of_split(clips, TRAIN)])
    centre = vectors[~tests].mean(axis=0, dtype=np.float64)
    values = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        right = np.array([query.label for query in queries[part]])[:, None] == gallery  # (Q, G)
        ranked = rank(cosine_table(vectors[tests][part], vectors[~tests], centre), right)
        values.append((recall_at(1, ranked), recall_at(5, ranked), average_precision(ranked)))
    origins = [query.origin for query in queries]
    columns = map(np.concatenate, zip(*values, strict=True))
    return {name: bootstrap(value, origins)._asdict() for name, value in zip(MEASURES, columns, strict=True)}


def table(record: dict[str, Any]) -> Table:
    """Tabulate a row per column, with 95 % intervals."""
    data = record["data"]
    found = Table(title=f"{data['test']} queries, {data['train']} gallery clips. {record['weights']}")
    found.add_column("")
    for name in MEASURES:
        found.add_column(name, justify="right")
    for row in record["rows"]:
        figures = (f"{row[n]['mean']:.3f} ({row[n]['low']:.3f} to {row[n]['high']:.3f})" for n in MEASURES)
        found.add_row(row["of"], *figures)
    return found
