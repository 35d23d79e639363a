"""`saccade soak`: the encoder node for minutes over a real graph, with faults mixed in: memory, latency and counts.

The node runs in a process of its own and is made to fail on purpose (saccade_ros/faults.py); every 50th picture is cut.
What must hold all the same: its memory does not grow, its latency stays, every frame and embedding is accounted for.
"""

import math
import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import rclpy
import yaml
from rich.console import Console
from rich.table import Table
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Rosbag2Writer

from saccade_ros.config import EncoderConfig, NodeConfig
from saccade_ros.faults import VARIABLE, read_faults
from saccade_ros.knobs import Settings, knob, same_as
from saccade_ros.measure.progress import Progress
from saccade_ros.measure.records import record_head
from saccade_ros.measure.series import growth_per_min
from saccade_ros.nodes.encoder_client import encoder_facts, encoder_process
from saccade_ros.nodes.player_client import player_process
from saccade_ros.nodes.trial_node import TrialNode
from saccade_ros.recordings.serialized import compressed_message, ros2_types, serialize
from saccade_ros.recordings.source import COMPRESSED
from saccade_ros.replay.live import LiveView
from saccade_ros.replay.modes import PlayOptions
from saccade_ros.replay.recording import EmbeddingRow, Recording, percentile
from saccade_ros.replay.schedule import FIXED, Schedule
from saccade_ros.replay.trial import Trial

TOPIC = "/soak/image_raw/compressed"
HEIGHT, WIDTH = 480, 640
LOOP = 90  # pictures, drawn once
CUT_EVERY = 50
START_NS = 10**9
WARM_UP_SHARE = 0.25  # of the time, left out of what is judged
FLAT = 1.5  # by which the later half's p99 latency may exceed the earlier half's
FAULTS = "step:error:97, output:nan:89, decode:memory:163, step:exit:103, publish:error:107, step:hang:301:0.5"


@dataclass(frozen=True)
class Options(Settings):
    """Length of a soak, its pictures, faults and limits."""

    minutes: float = knob(20.0, "How long to run.", at_least=0.1, at_most=10_000.0)
    rate_hz: float = knob(30.0, f"Pictures of {WIDTH} x {HEIGHT} pixels per second.", at_least=1.0, at_most=1000.0)
    model: str = same_as(EncoderConfig, "model")
    faults: str = knob(FAULTS, f"Faults that the node is made to fail by, as {VARIABLE} has them.")
    max_slope: float = knob(0.3, "Growth of the node's memory that is still allowed, in MB a minute.", at_least=0.0)


def write_pictures(bag: Path) -> Path:
    """Write a bag of a square wandering over a textured wall, in JPEGs, of which every 50th is cut."""
    with Rosbag2Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(TOPIC, COMPRESSED, typestore=ros2_types())
        pictures = [_jpeg(place) for place in range(LOOP)]
        for index in range(math.lcm(LOOP, CUT_EVERY)):
            data, stamp_ns = pictures[index % LOOP], START_NS + index * 10**9 // 30
            whole = data if index % CUT_EVERY else data[:999]
            message = compressed_message(stamp_ns, "soak", "rgb8; jpeg compressed bgr8", whole)
            writer.write(connection, stamp_ns, serialize(message))
    return bag


def run(options: Options, progress: Progress) -> dict[str, Any]:
    """Run the soak; its live view takes the place of `progress`.

    Raises:
        ConfigError: the faults cannot be read.
        ReplayError: the node died, or did not answer.
    """
    read_faults(options.faults)
    # A domain of its own, unless one is given: another encoder or camera on the graph would spoil the figures.
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    rclpy.init()
    try:
        with tempfile.TemporaryDirectory() as folder:
            recording, trial = _soak(options, Path(folder))
    finally:
        rclpy.try_shutdown()
    return judge(options, recording, list(trial.rss_mb))


def _soak(options: Options, folder: Path) -> tuple[Recording, Trial]:
    """Play for so many minutes."""
    bag, params = write_pictures(folder / "bag"), folder / "soak.yaml"
    params.write_text(yaml.safe_dump({"/**": {"ros__parameters": _parameters(options)}}), encoding="utf-8")
    schedule, play = Schedule(FIXED, options.rate_hz, seconds=options.minutes * 60), PlayOptions()
    with ExitStack() as opened:
        player = opened.enter_context(player_process())
        player.load(bag, [(TOPIC, TOPIC)], play, picture_hz=0.0)
        os.environ[VARIABLE] = options.faults  # of the process that is started now
        encoder = opened.enter_context(encoder_process(params, [TOPIC]))
        del os.environ[VARIABLE]
        view = opened.enter_context(LiveView(schedule.seconds, Console(stderr=True)))
        node = TrialNode(encoder, [(TOPIC, COMPRESSED)], NodeConfig().output_topic, play.limits, view)
        opened.callback(node.destroy_node)
        node.encoder.find()
        node.encoder.configure()
        node.recording.environment = encoder_facts(node.encoder.info)
        trial = node.trial(player, schedule)
        return node.recording, trial


def _parameters(options: Options) -> dict[str, Any]:
    return {"encoder.model": options.model, "stream.fps": 0.0, "backend.threads": 1}


def judge(options: Options, recording: Recording, samples: list[tuple[float, float]]) -> dict[str, Any]:
    """Make the record: the figures, and of each promise whether it held."""
    totals, environment = recording.totals, recording.environment
    warm = [sample for sample in samples if sample[0] >= WARM_UP_SHARE * 60 * options.minutes]
    slope = growth_per_min(warm) or 0.0
    rows = recording.rows[int(WARM_UP_SHARE * len(recording.rows)) :]
    earlier, later = _p99_ms(rows[: len(rows) // 2]), _p99_ms(rows[len(rows) // 2 :])
    others = sum(row.stream != TOPIC for row in recording.rows)  # on the same domain: they spoil the counts
    played, lost = int(environment["frames_played"]), int(environment["frames_lost_in_transport"])
    return {
        **record_head(recording.weights, str(environment["weights_sha256"])),
        "minutes": options.minutes,
        "rate_hz": options.rate_hz,
        "faults": options.faults,
        "frames": {"played": played, "lost": lost, "received": totals.frames_in, "used": totals.frames_used},
        "frames_dropped": dict(sorted(totals.frames_dropped.items())),
        "embeddings": {"published": totals.published, "received": totals.received, "of_other_nodes": others},
        "resident_mb": {"warm": warm[0][1], "end": warm[-1][1], "per_minute": slope},
        "resident_mb_every_10_s": [megabytes for _, megabytes in samples[::10]],
        "latency_p99_ms": {"earlier": earlier, "later": later},
        "held": {
            "memory": slope <= options.max_slope,
            "latency": later <= FLAT * earlier,
            "counts": totals.balanced and lost >= 0,
            "faults": totals.frames_dropped.get("encoder_error", 0) > 0 or not options.faults,
        },
    }


def table(record: Mapping[str, Any]) -> Table:
    """Make the table of what held."""
    memory, latency, frames = record["resident_mb"], record["latency_p99_ms"], record["frames"]
    figures = {
        "memory": f"{memory['warm']:.0f} to {memory['end']:.0f} MB, {memory['per_minute']:+.2f} MB a minute",
        "latency": f"p99 {latency['earlier']:.0f} ms, later {latency['later']:.0f} ms",
        "counts": f"{frames['received']} frames received, {frames['used']} used; "
        f"{record['embeddings']['published']} embeddings published, {record['embeddings']['received']} received",
        "faults": ", ".join(f"{cause} {count}" for cause, count in record["frames_dropped"].items()),
    }
    shown = Table("promise", "held", "figures", title=f"soak of {record['minutes']:g} minutes")
    for promise, text in figures.items():
        shown.add_row(promise, "yes" if record["held"][promise] else "NO", text)
    return shown


def exit_status(record: Mapping[str, Any]) -> int:
    """1 if a promise did not hold."""
    return 0 if all(record["held"].values()) else 1


def _p99_ms(rows: list[EmbeddingRow]) -> float:
    return percentile((row.total_ms for row in rows), 99) or 0.0


def _jpeg(place: int) -> npt.NDArray[np.uint8]:
    wall = np.random.default_rng(0).integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
    picture = np.kron(wall, np.ones((8, 8, 1), np.uint8))
    left = place * (WIDTH - 80) // LOOP
    picture[200:280, left : left + 80] = (30, 30, 220)
    return np.asarray(cv2.imencode(".jpg", picture)[1], np.uint8)
