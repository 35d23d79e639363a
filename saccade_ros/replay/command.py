"""`saccade replay`: a recording through the pipeline in this process, and its report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from saccade_ros.config import Config
from saccade_ros.knobs import Settings, knob, required
from saccade_ros.measure.progress import Progress
from saccade_ros.recordings import open_source
from saccade_ros.replay.inprocess import replay
from saccade_ros.replay.live import LiveView, totals_table
from saccade_ros.replay.recording import Recording
from saccade_ros.replay.report import REPORT, save_report
from saccade_ros.storage import sha256_of


@dataclass(frozen=True)
class ReplayOptions(Settings):
    """Recording to replay, and where its report goes; in process and over ROS alike."""

    source: Path = required(
        "Rosbag2 folder, .mcap, .db3, .bag or a video file, or a folder of JPEGs or PNGs.",
        metavar="SOURCE",
        positional=True,
    )
    picture_hz: float = knob(
        0.0, "Rate of a folder of pictures; 0 takes the times from their names.", at_least=0.0, at_most=100_000.0
    )
    out: Path = knob(Path("replay"), f"Folder for {', '.join(REPORT)}.", metavar="FOLDER")
    fidelity: bool = knob(True, "Encode a sample again in full at the end, to measure what was lost by saving.")


@dataclass(frozen=True)
class Options(ReplayOptions):
    """Recording to replay, its report, and the settings to replay it with."""

    topic: str = knob("", "Image topic, if the bag has several.")
    config: Config = Config()


def run(options: Options, progress: Progress) -> Recording:
    """Replay the recording; its own live view takes the place of `progress`.

    Raises:
        SourceError: the recording cannot be read.
        EmptyResultError: nothing came of it.
        What Pipeline raises: the model cannot be loaded as configured.
    """
    topic = options.topic or None
    with open_source(options.source, topic, options.picture_hz) as source, LiveView(source.duration_s) as view:
        recording = replay(source, options.config, view.update, options.source.name, options.fidelity)
    recording.environment["source_sha256"] = sha256_of(options.source)
    return recording


def table(recording: Recording) -> Table:
    """Make the table of totals."""
    return totals_table(recording)


def outputs(options: ReplayOptions) -> list[Path]:
    """Return the files that `save` writes."""
    return [options.out / name for name in REPORT]


def save(recording: Recording, options: Options) -> Sequence[Path]:
    """Write the report and the summary."""
    return save_report(recording, options.out)
