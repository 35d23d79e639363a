"""Replay without ROS: a bag or video through the engine in this process, as fast as it goes; nothing overflows."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict

import numpy as np

from saccade_ros.config import Config
from saccade_ros.engine import Engine, StreamEncoder
from saccade_ros.frames import EmbeddingResult, Picture
from saccade_ros.measure.machine import describe_machine
from saccade_ros.recordings.source import ImageMessage, Source
from saccade_ros.replay.recording import EmbeddingRow, Fact, Recording, Totals
from saccade_ros.replay.report import thumbnail
from saccade_ros.vision.images import check_image, decode_image
from saccade_ros.vision.ledger import FrameLedger
from saccade_ros.vision.malformed import MalformedImage
from saccade_ros.vision.tubelet import TubeletBuffer

MAX_THUMBNAILS = 60


def replay(source: Source, config: Config, progress: Callable[[Recording, float], None]) -> Recording:
    """Run every frame of `source` through the engine.

    Args:
        progress: called after each frame with what there is so far, and the seconds of recording behind it.

    Raises:
        SourceError: the recording cannot be read to its end.
        What Engine raises: the model cannot be loaded as configured.
    """
    engine = Engine(config)
    ledger, max_pixels = FrameLedger(), round(config.vision.max_megapixels * 1e6)

    def decode(image: ImageMessage) -> Picture:
        return decode_image(image.message, max_pixels)

    buffer: TubeletBuffer[ImageMessage] = TubeletBuffer(config.stream, ledger)
    encoder: StreamEncoder[ImageMessage] = StreamEncoder(config, engine.backend, decode)
    recording = Recording(environment=_environment(engine, source))
    first_ns = None
    for image in source:
        first_ns = first_ns or image.time_ns
        try:
            size = check_image(image.message, max_pixels)
        except MalformedImage as malformed:
            ledger.receive()
            ledger.drop(malformed.cause)
            continue
        tubelet = buffer.push(image, image.stamp_ns, image.frame_id, size)
        if tubelet is not None:
            try:
                recording.rows.append(_row(encoder.encode(tubelet), source.topic))
                ledger.use(2)
                if encoder.shadow_due:  # nobody waits here: every audit that is due is made
                    encoder.shadow_evaluate()
            except MalformedImage as malformed:
                ledger.drop(malformed.cause)
                ledger.drop("partner")
        recording.totals = _totals(ledger, len(recording.rows))
        progress(recording, (image.time_ns - first_ns) / 1e9)
    recording.gate = encoder.report()
    buffer.reset("end")
    recording.totals = _totals(ledger, len(recording.rows))
    recording.thumbnails = thumbnails(source, recording, max_pixels)
    return recording


def thumbnails(source: Source, recording: Recording, max_pixels: int) -> dict[int, bytes]:
    """Small pictures of the encoded moments, evenly chosen where there are many; reads the source again."""
    stamps = [row.stamp_ns for row in recording.rows if row.encoded]
    chosen = np.linspace(0, len(stamps) - 1, min(len(stamps), MAX_THUMBNAILS)).round().astype(int)
    wanted = {stamps[i] for i in chosen}
    pictures: dict[int, bytes] = {}
    for image in source:
        if image.stamp_ns in wanted:
            with suppress(MalformedImage):  # a malformed image that has the stamp of a good one
                pictures[image.stamp_ns] = thumbnail(decode_image(image.message, max_pixels))
    return pictures


def _environment(engine: Engine, source: Source) -> dict[str, Fact]:
    config = engine.config
    return {
        **asdict(engine.backend.info),
        "pooling": config.encoder.pooling,
        "fps": config.stream.fps,
        "gate_enabled": config.gate.enabled,
        "gate_tau": config.gate.tau,
        "gate_max_skip_s": config.gate.max_skip_s,
        "topic": source.topic,
        "replayed": f"in process, {time.strftime('%Y-%m-%d %H:%M')}",
        "machine": describe_machine(),
    }


def _row(result: EmbeddingResult, stream: str) -> EmbeddingRow:
    return EmbeddingRow(
        stream=stream,
        stamp_ns=result.stamp_ns,
        encoded=result.encoded,
        novelty=result.novelty,
        threshold=result.novelty_threshold,
        reuse_count=result.reuse_count,
        epoch=result.epoch,
        index=result.index,
        queue_ms=0.0,
        decode_ms=result.decode_ms,
        gate_ms=result.gate_ms,
        encode_ms=result.encode_ms,
        total_ms=result.decode_ms + result.gate_ms + result.encode_ms,
        label=result.label,
        score=result.score,
    )


def _totals(ledger: FrameLedger, tubelets: int) -> Totals:
    return Totals(ledger.received, ledger.used, dict(ledger.dropped), published=tubelets, received=tubelets)
