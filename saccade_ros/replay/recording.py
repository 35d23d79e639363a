"""Measurements of a replay: a row per embedding received, the account of the frames, and the environment."""

import hashlib
import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any

import numpy as np

from saccade_ros.config import Config
from saccade_ros.frames import Vector
from saccade_ros.knobs import SHOWN, settings_of
from saccade_ros.replay.fidelity import Fidelity, Sample
from saccade_ros.replay.moments import Moment, Moments
from saccade_ros.replay.trial import Benchmark

Fact = str | float | int | bool


@dataclass(frozen=True, slots=True)
class EmbeddingRow:
    """One embedding received, without its vector. The fields are those of the Embedding message.

    `novelty` and `novelty_threshold` are NaN where nothing was measured: first tubelet of an epoch, or gate off.
    `label` is empty and `score` NaN without a classifier.
    """

    stream: str
    stamp_ns: int
    encoded: bool
    novelty: float
    novelty_threshold: float
    tokens_computed: int
    tokens: int
    reuse_count: int
    stream_epoch: int
    tubelet_index: int
    queue_ms: float
    decode_ms: float
    gate_ms: float
    encode_ms: float
    total_ms: float
    label: str = ""
    score: float = math.nan

    @property
    def moment(self) -> Moment:
        """Its tubelet's."""
        return Moment(self.stream, self.stamp_ns)

    @classmethod
    def read(cls, embedding: Any, **others: Any) -> "EmbeddingRow":
        """Read a row off an EmbeddingResult or an Embedding message, which share their names; `others` are given."""
        names = (column.name for column in fields(cls))
        return cls(**{name: getattr(embedding, name) for name in names if name not in others}, **others)


@dataclass
class Totals:
    """Account of a replay's frames and embeddings, all streams together.

    Attributes:
        frames_in: images that the encoder's side received.
        frames_used: of these, the ones in a published embedding.
        frames_dropped: of these, the others, by cause (see saccade_ros.vision.ledger).
        published: embeddings sent.
        received: embeddings that arrived at the replay.
    """

    frames_in: int = 0
    frames_used: int = 0
    frames_dropped: dict[str, int] = field(default_factory=dict)
    published: int = 0
    received: int = 0

    @property
    def dropped(self) -> int:
        """Frames dropped, all causes."""
        return sum(self.frames_dropped.values())

    @property
    def balanced(self) -> bool:
        """True if every frame and every embedding is accounted for."""
        return self.frames_in == self.frames_used + self.dropped and self.received == self.published


@dataclass
class Recording:
    """Content of a report.

    Attributes:
        rows: in the order received; `add` appends.
        totals: the account of frames and embeddings.
        environment: encoder_id, model, weights, backend, device, precision, threads, window, recompute, fps, gate_tau,
            source (name of the bag or video), machine; and whatever else is worth a row in the report.
        gate: the gate's last state: threshold and budget, staleness, and the shadow evaluations' fidelity.
        moments: embeddings of encoded moments.
        thumbnails: JPEGs of encoded moments.
        remark: verdict on what the recording lost, with the remedy; empty if all is well.
        benchmark: the trials, of a replay over ROS; the rows are those of the last one. None in process.
        parameters: the encoder's, by name (describe_parameters).
        sample: of the embeddings published, to measure fidelity by.
        fidelity: to always encoding; of the last trial.
        started: date and time, in UTC.
    """

    rows: list[EmbeddingRow] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    environment: dict[str, Fact] = field(default_factory=dict)
    thumbnails: dict[Moment, bytes] = field(default_factory=dict)
    gate: dict[str, Fact] = field(default_factory=dict)
    moments: Moments = field(default_factory=Moments)
    remark: str = ""
    benchmark: Benchmark | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    sample: Sample = field(default_factory=Sample)
    fidelity: Fidelity = field(default_factory=Fidelity)
    started: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    def add(self, row: EmbeddingRow, vector: Vector) -> None:
        """Append a row; of an encoded tubelet the embedding is remembered, too."""
        self.rows.append(row)
        self.sample.add(row.stream, row.stamp_ns, vector)
        if row.encoded:
            self.moments.add(row.moment, vector)

    @property
    def weights(self) -> str:
        """Origin of the weights, for people."""
        return str(self.environment.get("weights", ""))

    @property
    def trained(self) -> bool:
        """True unless the weights are RANDOM."""
        return "RANDOM" not in self.weights

    @property
    def start_ns(self) -> int:
        """Stamp of the earliest tubelet of all streams."""
        return min((row.stamp_ns for row in self.rows), default=0)

    @property
    def encoded(self) -> int:
        """Tubelets that the encoder ran for."""
        return sum(row.encoded for row in self.rows)

    @property
    def computed_share(self) -> float | None:
        """Share of the tokens computed, of those that dense encoding computes; None where there is no tubelet."""
        tokens = sum(row.tokens for row in self.rows)
        return sum(row.tokens_computed for row in self.rows) / tokens if tokens else None

    def summary(self) -> dict[str, Any]:
        """Summarize in numbers, as strict JSON allows them: null where there is nothing to measure.

        Times are in milliseconds. `encode_rate` is the fraction of tubelets encoded; the median of the encode
        stage is over these alone. `computed_share` is the fraction of all their tokens that were computed, of those
        that dense encoding computes. `labels` counts the encoded ones by what the classifier, if there is one, calls
        them.
        """
        rows, totals, encoded = self.rows, self.totals, self.encoded
        return {
            "frames_in": totals.frames_in,
            "frames_used": totals.frames_used,
            "frames_dropped": dict(sorted(totals.frames_dropped.items())),
            "tubelets": len(rows),
            "encoded": encoded,
            "skipped": len(rows) - encoded,
            "published": totals.published,
            "received": totals.received,
            "latency_ms": {f"p{q}": percentile((row.total_ms for row in rows), q) for q in (50, 95, 99)},
            "encode_rate": encoded / len(rows) if rows else None,
            "computed_share": self.computed_share,
            "stage_ms": {
                "decode": percentile((row.decode_ms for row in rows), 50),
                "gate": percentile((row.gate_ms for row in rows), 50),
                "encode": percentile((row.encode_ms for row in rows if row.encoded), 50),
            },
            "gate": dict(self.gate),
            "labels": dict(Counter(row.label for row in rows if row.encoded and row.label).most_common()),
            "encoder_id": str(self.environment.get("encoder_id", "")),
            "weights": self.weights,
            "balanced": totals.balanced,
            "remark": self.remark,
        }


def describe_parameters(config: Config) -> dict[str, Any]:
    """List every parameter, by name, as JSON has it; of long text, such as gate.centre, a digest."""
    values = {setting.name: attrgetter(setting.name)(config) for setting in settings_of(Config)}
    for name, value in values.items():
        if isinstance(value, tuple):
            values[name] = list(value)
        elif isinstance(value, str) and len(value) > SHOWN:
            values[name] = f"sha256:{hashlib.sha256(value.encode()).hexdigest()}"
    return values


def describe_counts(token_counts: Sequence[int]) -> str:
    """Describe the numbers of tokens that a step can compute, for the environment."""
    return ", ".join(str(count) for count in token_counts) or "any"


def percentile(values: Iterable[float], q: float) -> float | None:
    """Compute the q-th percentile of the finite values; None if there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return float(np.percentile(finite, q)) if finite else None
