"""Fidelity of a replay: a sample of its embeddings, beside those of an encoder with time for every tubelet."""

import sys
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from saccade_ros.config import Config
from saccade_ros.frames import EmbeddingResult, Frame, Tubelet, Vector
from saccade_ros.measure.metrics import centred_cosine, summarize
from saccade_ros.measure.progress import Progress, silent
from saccade_ros.pipeline import Pipeline, Stream
from saccade_ros.recordings.clip import frames_of
from saccade_ros.recordings.source import Source

RUN = 16  # embeddings in a row that are sampled
MAX_RUNS = 4
WARM_UP_WINDOWS = 2  # tubelets encoded before each run, in windows: the cache is full, and so is what it was made from
LEAST_SAMPLES = 8  # from which on their mean serves as centre


@dataclass(frozen=True)
class Fidelity:
    """Centred cosines of the embeddings published and those of always encoding; None, and why, where there are none.

    Attributes:
        mean, p5, worst: of the cosines.
        samples: number of embeddings compared.
        centre: the mean embedding that was taken off, in words.
        missing: why there is no figure; empty if there is.
    """

    mean: float | None = None
    p5: float | None = None
    worst: float | None = None
    samples: int = 0
    centre: str = ""
    missing: str = "it was not asked for"


@dataclass
class Sample:
    """Embeddings as published, in runs spread evenly: beyond MAX_RUNS of a stream every second run is forgotten."""

    _runs: dict[str, dict[int, dict[int, Vector]]] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)
    _every: dict[str, int] = field(default_factory=dict)

    def add(self, stream: str, stamp_ns: int, vector: Vector) -> None:
        """Keep a copy of an embedding if it belongs to a run that is kept."""
        count = self._counts.get(stream, 0)
        self._counts[stream] = count + 1
        number, runs = count // RUN, self._runs.setdefault(stream, {})
        if number % self._every.setdefault(stream, 1):
            return
        runs.setdefault(number, {})[stamp_ns] = np.array(vector, np.float32)
        if len(runs) > MAX_RUNS:
            self._every[stream] *= 2
            self._runs[stream] = {number: run for number, run in runs.items() if number % self._every[stream] == 0}

    def of(self, stream: str) -> dict[int, Vector]:
        """Return the embeddings that are kept of a stream, (dim,) by stamp."""
        return {stamp_ns: vector for run in self._runs.get(stream, {}).values() for stamp_ns, vector in run.items()}


def measure_fidelity(
    sample: Sample, sources: Sequence[Source], pipeline: Pipeline, pass_stamp_ns: int = 0, progress: Progress = silent
) -> Fidelity:
    """Encode the sampled tubelets of a recording again, all their tokens, each run after a warm-up; and compare.

    Args:
        sample: embeddings published while the sources were played.
        sources: one for each topic.
        pipeline: with the settings they were played with.
        pass_stamp_ns: what stamps grow by from one pass of the recording to the next; 0 if it was played once.

    Raises:
        SourceError: the recording cannot be read again.
    """
    pairs: list[tuple[Vector, Vector]] = []
    for source in sources:
        published = sample.of(source.topic)
        frames = _frames_as_played(source, pass_stamp_ns, published)
        for tubelet, result in _encode_always(frames, pipeline, published):
            pairs.append((published[tubelet.stamp_ns], result.vector))
            progress("encoding a sample in full", len(pairs) / max(1, len(published) * len(sources)))
    return _compare(pairs, pipeline.open_stream().shadow.centre)


def _compare(pairs: Sequence[tuple[Vector, Vector]], centre: Vector | None) -> Fidelity:
    """Summarize pairs of a published embedding and a fresh one."""
    if not pairs:
        return Fidelity(missing="no embedding was published of a tubelet that the recording has by its stamp")
    if centre is None and len(pairs) < LEAST_SAMPLES:
        return Fidelity(missing=f"gate.centre is not set, and {len(pairs)} embeddings are too few to take their mean")
    ours, theirs = (np.stack(side) for side in zip(*pairs, strict=True))  # (N, dim), (N, dim)
    mean, p5, worst = summarize(centred_cosine(ours, theirs, centre))
    return Fidelity(mean, p5, worst, len(pairs), "mean of the sample" if centre is None else "calibrated", missing="")


def _frames_as_played(source: Source, pass_stamp_ns: int, wanted: Collection[int]) -> Iterator[Frame]:
    """Yield the frames of pass after pass, up to the last one that is wanted."""
    for shift_ns in range(0, max(wanted, default=0) + 1, pass_stamp_ns or sys.maxsize):
        for frame in frames_of(source):
            yield replace(frame, stamp_ns=frame.stamp_ns + shift_ns)


def _encode_always(
    frames: Iterable[Frame], pipeline: Pipeline, wanted: Collection[int]
) -> Iterator[tuple[Tubelet, EmbeddingResult]]:
    """Encode the tubelets of these stamps and, before a run of them, a warm-up; yield the wanted ones.

    Tubelets between two wanted ones are encoded, too, if they are fewer than a warm-up; else the cache starts afresh.
    """
    always = Pipeline(_always(pipeline.config), pipeline.backend)
    stream, left = always.open_stream(), len(wanted)
    before: deque[Tubelet] = deque(maxlen=WARM_UP_WINDOWS * pipeline.backend.info.window)
    for tubelet in pipeline.open_stream().intake.tubelets(frames):
        if tubelet.stamp_ns not in wanted:
            before.append(tubelet)
            continue
        if len(before) == before.maxlen:
            stream = always.open_stream()
        for earlier in before:
            list(_push(stream, earlier))
        before.clear()
        yield from _push(stream, tubelet)
        if not (left := left - 1):
            return


def _push(stream: Stream, tubelet: Tubelet) -> Iterator[tuple[Tubelet, EmbeddingResult]]:
    yield from stream.run((tubelet.older, tubelet.newer))


def _always(config: Config) -> Config:
    """Settings that encode every token of every tubelet; the frames given are those sampled already."""
    gate, tokens = replace(config.gate, enabled=False), replace(config.tokens, select="all")
    return replace(config, gate=gate, tokens=tokens, stream=replace(config.stream, fps=0.0))
