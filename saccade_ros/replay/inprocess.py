"""Replay without ROS: a recording through the pipeline in this process, as fast as it goes; nothing overflows."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict

import numpy as np

from saccade_ros.config import Config, VisionConfig
from saccade_ros.frames import EmbeddingResult
from saccade_ros.measure.machine import describe_machine
from saccade_ros.measure.software import describe_gpus, describe_software
from saccade_ros.pipeline import Pipeline, Stream
from saccade_ros.recordings.clip import frames_of
from saccade_ros.recordings.source import RecordedImage, Source
from saccade_ros.replay.fidelity import measure_fidelity
from saccade_ros.replay.moments import Moment
from saccade_ros.replay.recording import EmbeddingRow, Fact, Recording, Totals, describe_counts, describe_parameters
from saccade_ros.replay.report import thumbnail
from saccade_ros.verdict import require_tubelets
from saccade_ros.vision.images import Levels, MalformedImage, decode_image

MAX_THUMBNAILS = 60


def replay(
    source: Source,
    config: Config,
    progress: Callable[[Recording, float], None],
    name: str = "",
    with_fidelity: bool = False,
) -> Recording:
    """Run every frame of `source` through the pipeline.

    Args:
        with_fidelity: encode a sample again in full, to see what the gate cost.
        name: of the recording, for the report; its topic, if not given.
        progress: called after each tubelet with what there is so far, and the seconds of recording behind it.

    Raises:
        SourceError: the recording cannot be read to its end.
        EmptyResultError: nothing came of it.
        What Pipeline raises: the model cannot be loaded as configured.
    """
    pipeline = Pipeline(config)
    stream = pipeline.open_stream(source.topic)
    name = name or source.topic
    facts = {**_environment(pipeline, source), "source": name}
    recording = Recording(environment=facts, parameters=describe_parameters(config))
    first_ns = None
    for tubelet, result in stream.run(frames_of(source)):
        first_ns = first_ns or tubelet.older.stamp_ns
        recording.add(_row(result, stream.name), result.vector)
        if stream.shadow_due:  # nobody waits here: every shadow evaluation that is due is made
            stream.evaluate_shadow()
        recording.totals = _totals(stream)
        progress(recording, (tubelet.stamp_ns - first_ns) / 1e9)
    recording.gate = stream.report()
    stream.intake.reset("end")
    recording.totals = _totals(stream)
    recording.thumbnails = thumbnails(source, source.topic, recording, config.vision)
    if with_fidelity:
        recording.fidelity = measure_fidelity(recording.sample, [source], pipeline)
    recording.remark = require_tubelets(name, source.topic, stream.ledger.accounts(), stream.published).sentence
    return recording


def thumbnails(
    images: Iterable[RecordedImage], topic: str, recording: Recording, vision: VisionConfig
) -> dict[Moment, bytes]:
    """Thumbnails of a topic's encoded moments, of all topics' evenly chosen where there are many."""
    moments = [row.moment for row in recording.rows if row.moment in recording.moments]
    chosen = np.linspace(0, len(moments) - 1, min(len(moments), MAX_THUMBNAILS)).round().astype(int)
    wanted = {moments[i] for i in chosen}
    pictures: dict[Moment, bytes] = {}
    max_pixels, (black, white) = round(vision.max_megapixels * 1e6), vision.mono16_range
    levels = Levels(black, white, warn=lambda text: None)  # the stream has told it already
    for recorded in images:
        if (moment := Moment(topic, recorded.stamp_ns)) in wanted:
            with suppress(MalformedImage):  # a malformed image that has the stamp of a good one
                pictures[moment] = thumbnail(decode_image(recorded.image, max_pixels, levels=levels))
    return pictures


def _environment(pipeline: Pipeline, source: Source) -> dict[str, Fact]:
    config, info = pipeline.config, pipeline.backend.info
    return {
        **asdict(info),
        "token_counts": describe_counts(info.token_counts),
        "pooling": config.encoder.pooling,
        "fps": config.stream.fps,
        "gate_enabled": config.gate.enabled,
        "gate_tau": config.gate.tau,
        "gate_max_skip_s": config.gate.max_skip_s,
        "tokens_select": config.tokens.select,
        "topic": source.topic,
        "replayed": f"in process, {time.strftime('%Y-%m-%d %H:%M')}",
        "machine": describe_machine(),
        "gpus": describe_gpus(),
        "software": describe_software(),
    }


def _row(result: EmbeddingResult, stream: str) -> EmbeddingRow:
    total_ms = result.queue_ms + result.decode_ms + result.gate_ms + result.encode_ms
    return EmbeddingRow.read(result, stream=stream, total_ms=total_ms)


def _totals(stream: Stream) -> Totals:
    accounts = stream.ledger.accounts()
    return Totals(
        accounts.received, accounts.used, dict(accounts.dropped), published=stream.published, received=stream.published
    )
