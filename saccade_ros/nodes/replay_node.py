#!/usr/bin/env python3
"""Replay benchmark over a real ROS graph.

It starts the encoder node as a process of its own, plays a recording into it at the recording's rate, receives the
embeddings, and reports.

    ros2 run saccade_ros replay_node BAG_OR_VIDEO --params config/demo.yaml --out report
"""

if __name__ == "__main__":  # signals are attended to before the imports
    from saccade_ros.nodes.entry import replay_node

    raise SystemExit(replay_node())

import argparse
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from rich.console import Console
from sensor_msgs.msg import CompressedImage, Image

from saccade_ros.cli_options import add_options, read_options
from saccade_ros.knobs import knob
from saccade_ros.measure.machine import describe_machine
from saccade_ros.measure.progress import ProgressBar
from saccade_ros.msg import Embedding, EncoderInfo
from saccade_ros.nodes.conversions import stamp_to_ns
from saccade_ros.nodes.ros_arguments import ros_refusals
from saccade_ros.nodes.topic_name import playable_topic
from saccade_ros.params_file import load_config
from saccade_ros.recordings import open_source
from saccade_ros.recordings.bag import BagSource
from saccade_ros.recordings.bag_writer import write_bag
from saccade_ros.recordings.content import read_start
from saccade_ros.recordings.rosbag1 import ROSBAG1_START
from saccade_ros.recordings.source import COMPRESSED, Source, SourceError
from saccade_ros.replay.command import ReplayOptions, outputs
from saccade_ros.replay.inprocess import thumbnails
from saccade_ros.replay.live import LiveView
from saccade_ros.replay.recording import EmbeddingRow, Recording, describe_counts
from saccade_ros.replay.report import save_report
from saccade_ros.storage import check_file
from saccade_ros.terminal import EndedBySignal, ended_by_signals, forgiving_output
from saccade_ros.verdict import require_tubelets
from saccade_ros.vision.ledger import Accounts

ENCODER = "saccade_encoder"
LOAD_TIMEOUT_S = 600.0  # a large checkpoint may have to be downloaded
ANSWER_TIMEOUT_S = 30.0
LONGEST_SPIN_S = 0.2  # a signal is noticed after
QUEUE_DEPTH = 100
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
DROPPED, RESETS, DETAILS = "frames_dropped.", "resets.", "details."
GATE = "gate."


@dataclass(frozen=True)
class Options(ReplayOptions):
    """Recording to replay, its report, and the encoder's parameters."""

    params: Path | None = knob(None, "Parameter file of the encoder node.", metavar="FILE")


class ReplayError(RuntimeError):
    """Failure of the encoder node during a replay. The message says which, and where to look."""


class ReplayNode(Node):
    """Node that plays a bag into the encoder and records the embeddings."""

    def __init__(self, source: Source, encoder: "subprocess.Popen[bytes]", output_topic: str) -> None:
        with ros_refusals():
            super().__init__("saccade_replay")
        self._source, self._encoder = source, encoder
        self.recording = Recording()
        self._info: EncoderInfo | None = None
        self._counts: dict[str, str] = {}  # of the encoder's latest diagnostics
        self._counts_are_new = False
        self._lost = 0  # images played that the encoder never received
        kind = CompressedImage if source.msgtype == COMPRESSED else Image
        self._images = self.create_publisher(kind, source.topic, QUEUE_DEPTH)
        self.create_subscription(Embedding, output_topic, self._on_embedding, QUEUE_DEPTH)
        self.create_subscription(EncoderInfo, f"/{ENCODER}/info", self._on_info, LATCHED)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._lifecycle = self.create_client(ChangeState, f"/{ENCODER}/change_state")
        self._state = self.create_client(GetState, f"/{ENCODER}/get_state")

    def run(self, view: LiveView) -> Recording:
        """Start the encoder, play everything, stop it, and bring the totals up to date."""
        self._find_encoder()
        self._transition(Transition.TRANSITION_CONFIGURE, LOAD_TIMEOUT_S)
        self._wait_for(lambda: self._info is not None, "the encoder's info", ANSWER_TIMEOUT_S)
        self._transition(Transition.TRANSITION_ACTIVATE, ANSWER_TIMEOUT_S)
        self._wait_for(lambda: self._images.get_subscription_count(), "the encoder's subscription", ANSWER_TIMEOUT_S)
        self._wait_for(lambda: self._counts, "the encoder's diagnostics", ANSWER_TIMEOUT_S)
        self.recording.environment = self._environment()
        played = self._play(view)
        self._await_arrival(played)
        self._transition(Transition.TRANSITION_DEACTIVATE, ANSWER_TIMEOUT_S)  # publishes the final counts
        self._wait_for(lambda: self._counts["frames_pending"] == "0", "the final counts", ANSWER_TIMEOUT_S)
        published = int(self._counts["tubelets_published"])
        self._wait_for(lambda: len(self.recording.rows) >= published, "the last embeddings", ANSWER_TIMEOUT_S)
        self._settle()
        self.recording.environment["frames_played"] = played
        self._lost = played - self.recording.totals.frames_in
        self.recording.environment["frames_lost_in_transport"] = self._lost
        return self.recording

    @property
    def accounts(self) -> Accounts:
        """Account of the frames played, as the encoder's last diagnostics give it."""
        totals = self.recording.totals
        resets = {reason: int(count) for reason, count in self._counted(RESETS).items()}
        return Accounts(
            received=totals.frames_in,
            used=totals.frames_used,
            dropped=totals.frames_dropped,
            resets=resets,
            lost=self._lost,
            details=self._counted(DETAILS),
        )

    def _counted(self, prefix: str) -> dict[str, str]:
        """Values of the encoder's latest diagnostics whose names begin like this, by the rest of the name."""
        return {key.removeprefix(prefix): value for key, value in self._counts.items() if key.startswith(prefix)}

    def _find_encoder(self) -> None:
        """Wait until both have discovered each other: an answer sent before the encoder knows this client is lost."""
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        answer = None
        while answer is None or not answer.done():
            self._wait_for(self._lifecycle.service_is_ready, "the encoder to start", deadline - time.monotonic())
            answer = self._state.call_async(GetState.Request())
            rclpy.spin_until_future_complete(self, answer, timeout_sec=1.0)

    def _play(self, view: LiveView) -> int:
        """Publish each message as far after the first as the bag received it; returns how many."""
        played, first_ns, started = 0, 0, 0.0
        for image in self._source:
            if not played:
                first_ns, started = image.time_ns, time.monotonic()
            due = started + (image.time_ns - first_ns) / 1e9
            while (left := due - time.monotonic()) > 0:
                rclpy.spin_once(self, timeout_sec=min(left, LONGEST_SPIN_S))
            self._images.publish(image.cdr)
            played += 1
            self._settle()
            view.update(self.recording, time.monotonic() - started)
            if self._encoder.poll() is not None:
                raise ReplayError(f"the encoder ended with status {self._encoder.returncode}; its log is above")
        return played

    def _await_arrival(self, played: int) -> None:
        """Wait until all images have arrived, or none has between two diagnostics: best effort may lose some."""
        arrived = -1
        while arrived < int(self._counts["frames_received"]) < played:
            arrived = int(self._counts["frames_received"])
            self._counts_are_new = False
            self._wait_for(lambda: self._counts_are_new, "the encoder's diagnostics", ANSWER_TIMEOUT_S)

    def _settle(self) -> None:
        """Bring the totals up to the newest counts."""
        counts, totals = self._counts, self.recording.totals
        totals.frames_in, totals.frames_used = int(counts["frames_received"]), int(counts["frames_used"])
        totals.frames_dropped = {cause: int(count) for cause, count in self._counted(DROPPED).items()}
        totals.published, totals.received = int(counts["tubelets_published"]), len(self.recording.rows)
        self.recording.gate = {name: yaml.safe_load(figure) for name, figure in self._counted(GATE).items()}

    def _environment(self) -> dict[str, Any]:
        info = self._info
        assert info is not None  # run has waited for it
        names = [name for name in EncoderInfo.get_fields_and_field_types() if name != "streams"]
        return {
            **{name: getattr(info, name) for name in names},
            "token_counts": describe_counts(info.token_counts),
            "topic": self._source.topic,
            "replayed": f"over ROS 2 ({rclpy.get_rmw_implementation_identifier()}), {time.strftime('%Y-%m-%d %H:%M')}",
            "machine": describe_machine(),
        }

    def _transition(self, transition: int, timeout_s: float) -> None:
        request = ChangeState.Request(transition=Transition(id=transition))
        answer = self._lifecycle.call_async(request)
        self._wait_for(answer.done, f"transition {transition}", timeout_s)
        if not answer.result().success:
            raise ReplayError(f"the encoder refused transition {transition}; its log above says why")

    def _wait_for(self, done: Callable[[], Any], what: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            if self._encoder.poll() is not None:
                raise ReplayError(f"the encoder ended with status {self._encoder.returncode}; its log is above")
            if time.monotonic() > deadline:
                raise ReplayError(f"waited {timeout_s:.0f} s for {what} in vain; is ROS_DOMAIN_ID free of others?")
            rclpy.spin_once(self, timeout_sec=0.05)

    def _on_info(self, message: EncoderInfo) -> None:
        self._info = message

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.startswith(f"/{ENCODER}: "):  # others report here, too
                self._counts = {pair.key: pair.value for pair in status.values}
                self._counts_are_new = True

    def _on_embedding(self, message: Embedding) -> None:
        row = EmbeddingRow.read(message, stamp_ns=stamp_to_ns(message.header.stamp))
        self.recording.add(row, np.asarray(message.vector, np.float32))


@contextmanager
def encoder_process(params: Path | None, topic: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the encoder node with these parameters on this topic; end it when the block ends."""
    command = [sys.executable, "-m", "saccade_ros.nodes.encoder_child", str(os.getpid())]
    command += ["--ros-args", "-r", f"__node:={ENCODER}"]
    command += ["--params-file", str(params)] if params else []
    process = subprocess.Popen([*command, "-p", "node.autostart:=false", "-p", f"node.topics:=[{topic}]"])
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=ANSWER_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def as_bag(path: Path, out: Path, console: Console) -> Path:
    """Find the bag to play: `path` itself, or a bag written once from the video that it is.

    Its name holds a digest of the video's path, size and time: a video that changed gets another bag, and nobody
    else's folder is taken for it.
    """
    if path.is_file() and read_start(path).startswith(ROSBAG1_START):
        raise SourceError(
            f"{path} is a ROS 1 bag: convert it with `rosbags-convert`, or use `saccade replay`, without ROS"
        )
    with open_source(path) as source:
        if isinstance(source, BagSource):
            return path
    video = f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}"
    bag = out / f"{path.stem}_{hashlib.sha256(video.encode()).hexdigest()[:8]}_bag"
    if bag.exists():
        console.print(f"playing {bag}, written from {path.name} before", soft_wrap=True)
        return bag
    with ProgressBar(console) as progress:
        frames = write_bag(path, bag, progress=progress)
    console.print(f"wrote {bag}: {frames} frames of {path.name}", soft_wrap=True)
    return bag


def open_played(bag: Path, topic: str, console: Console) -> Source:
    """Open the bag to play, its topic under a name that ROS 2 allows."""
    source = open_source(bag, topic or None)
    recorded, source.topic = source.topic, playable_topic(source.topic)
    if source.topic != recorded:
        console.print(f"{recorded} is no topic name of ROS 2: played on {source.topic}", soft_wrap=True)
    return source


def replay(options: Options, console: Console) -> bool:
    """Play, receive and report; True if every frame and embedding is accounted for.

    Raises:
        EmptyResultError: nothing came of the recording.
    """
    config = load_config(options.params)
    for output in outputs(options):
        check_file(output)
    bag = as_bag(options.source, options.out, console)
    with open_played(bag, options.topic, console) as source, encoder_process(options.params, source.topic) as encoder:
        node = ReplayNode(source, encoder, config.node.output_topic)
        try:
            with LiveView(source.duration_s, console) as view:
                recording = node.run(view)
                recording.environment["source"] = options.source.name
                recording.thumbnails = thumbnails(source, recording, config.vision)
                verdict = require_tubelets(options.source.name, source.topic, node.accounts, len(recording.rows))
                recording.remark = verdict.sentence
                view.finish(recording)
        finally:
            node.destroy_node()
    for file in save_report(recording, options.out):
        console.print(str(file), soft_wrap=True)
    return recording.totals.balanced


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Exit status 0 if the accounts balance, 1 if not or if something was refused."""
    arguments = sys.argv if arguments is None else arguments
    # A domain of its own, unless one is given: another encoder or camera on the graph would spoil the figures.
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    with forgiving_output():
        return guarded_replay(arguments)


def guarded_replay(arguments: list[str]) -> int:
    """Replay, and turn what ends it into a line and a status."""
    console = Console()
    try:
        with ended_by_signals():
            with ros_refusals():
                rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
            return 0 if replay(read_arguments(arguments), console) else 1
    except (ReplayError, ValueError, OSError) as refused:
        console.print(f"replay: {refused}", style="bold red", markup=False, soft_wrap=True)
        return 1
    except EndedBySignal as ended:
        console.print(f"replay: ended by {ended}; no report was written", soft_wrap=True)
        return ended.status
    finally:
        rclpy.try_shutdown()


def read_arguments(arguments: list[str]) -> Options:
    """Read the options among a command line's arguments; the others are ROS's."""
    parser = argparse.ArgumentParser(prog="replay_node", description=__doc__)
    add_options(parser, Options)
    return read_options(Options, vars(parser.parse_args(remove_ros_args(arguments)[1:])))
