"""`saccade soak`: the encoder node for minutes over a real graph, with faults mixed in: memory, latency and counts.

The node runs in a process of its own and is made to fail on purpose (saccade_ros/faults.py); every 50th picture is cut.
What must hold all the same: its memory does not grow, its latency stays, every frame and embedding is accounted for.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import cv2
import numpy as np
import rclpy
import yaml
from rclpy.serialization import serialize_message
from rich.console import Console
from rich.table import Table
from sensor_msgs.msg import CompressedImage

from saccade_ros.config import EncoderConfig, NodeConfig
from saccade_ros.faults import VARIABLE, read_faults
from saccade_ros.knobs import Settings, knob, same_as
from saccade_ros.measure.progress import Progress
from saccade_ros.measure.records import record_head
from saccade_ros.nodes.conversions import ns_to_stamp
from saccade_ros.nodes.replay_node import ReplayNode, encoder_process
from saccade_ros.recordings.source import COMPRESSED, RecordedImage, Source
from saccade_ros.replay.live import LiveView
from saccade_ros.replay.recording import EmbeddingRow, Recording, percentile

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


class SoakSource(Source):
    """Camera that shows a square wandering over a textured wall, in JPEGs, of which every 50th is cut."""

    topic, msgtype = "/soak/image_raw/compressed", COMPRESSED

    def __init__(self, options: Options) -> None:
        self.duration_s: float = options.minutes * 60
        self.count: int = round(self.duration_s * options.rate_hz)
        self._period_ns = round(1e9 / options.rate_hz)
        self._pictures = [_jpeg(place) for place in range(LOOP)]

    def __iter__(self) -> Iterator[RecordedImage]:
        for index in range(self.count):
            data, stamp_ns = self._pictures[index % LOOP], START_NS + index * self._period_ns
            message = CompressedImage(
                format="rgb8; jpeg compressed bgr8", data=data if index % CUT_EVERY else data[:999]
            )
            message.header.stamp, message.header.frame_id = ns_to_stamp(stamp_ns), "soak"
            yield RecordedImage(stamp_ns, stamp_ns, "soak", message, serialize_message(message), COMPRESSED)


class SoakView(LiveView):
    """Live view that also samples the memory of the node's process, once a second."""

    def __init__(self, duration_s: float, encoder: "Popen[bytes]") -> None:
        super().__init__(duration_s, Console(stderr=True))
        self._status = Path(f"/proc/{encoder.pid}/status")
        self.samples: list[tuple[float, float]] = []  # seconds since the start, resident MB

    def update(self, recording: Recording, elapsed_s: float) -> None:
        """See LiveView."""
        super().update(recording, elapsed_s)
        if elapsed_s >= len(self.samples):
            self.samples.append((elapsed_s, resident_mb(self._status.read_text(encoding="utf-8"))))


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
            source, params = SoakSource(options), Path(folder) / "soak.yaml"
            params.write_text(yaml.safe_dump({"/**": {"ros__parameters": _parameters(options)}}), encoding="utf-8")
            os.environ[VARIABLE] = options.faults  # of the process that is started now
            with encoder_process(params, source.topic) as encoder:
                del os.environ[VARIABLE]
                view = SoakView(source.duration_s, encoder)
                with view:
                    recording = ReplayNode(source, encoder, NodeConfig().output_topic).run(view)
    finally:
        rclpy.try_shutdown()
    return judge(options, recording, view.samples)


def _parameters(options: Options) -> dict[str, Any]:
    return {"encoder.model": options.model, "stream.fps": 0.0, "backend.threads": 1}


def judge(options: Options, recording: Recording, samples: list[tuple[float, float]]) -> dict[str, Any]:
    """Make the record: the figures, and of each promise whether it held."""
    totals, environment = recording.totals, recording.environment
    warm = [sample for sample in samples if sample[0] >= WARM_UP_SHARE * 60 * options.minutes]
    slope = growth_mb_per_min(warm)
    rows = recording.rows[int(WARM_UP_SHARE * len(recording.rows)) :]
    earlier, later = _p99_ms(rows[: len(rows) // 2]), _p99_ms(rows[len(rows) // 2 :])
    others = sum(row.stream != SoakSource.topic for row in recording.rows)  # on the same domain: they spoil the counts
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


def growth_mb_per_min(samples: list[tuple[float, float]]) -> float:
    """Slope of a line fitted to resident memory, of (seconds, MB) pairs."""
    seconds, megabytes = np.array(samples, np.float64).T
    return float(np.polyfit(seconds / 60, megabytes, 1)[0])


def resident_mb(status: str) -> float:
    """Read the resident memory in MB off the text of /proc/PID/status."""
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


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


def _jpeg(place: int) -> bytes:
    wall = np.random.default_rng(0).integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
    picture = np.kron(wall, np.ones((8, 8, 1), np.uint8))
    left = place * (WIDTH - 80) // LOOP
    picture[200:280, left : left + 80] = (30, 30, 220)
    encoded: bytes = cv2.imencode(".jpg", picture)[1].tobytes()
    return encoded
