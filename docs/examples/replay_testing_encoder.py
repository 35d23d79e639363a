"""Example of a replay test for a robot's own CI, with the package replay_testing (ROS 2 Jazzy and later).

    SACCADE_TEST_BAG=drive.mcap ros2 run replay_testing replay_test replay_testing_encoder.py

Copy it, and change the topic and the limits. In CMake: find_package(replay_testing), add_replay_test(FILE). It was
written for replay_testing 0.0.4 and has NOT been run here, where rosbag2 cannot be installed. replay_testing plays the
bag while the encoder still loads, so the first seconds are lost: the limits leave room for them, and the bag should be
longer than that. `saccade replay drive.mcap` loses none, and needs no ROS.
"""

import os
from collections import Counter
from pathlib import Path
from typing import ClassVar

from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare
from replay_testing import LocalFixture, analyze, fixtures, read_messages, run

from launch import LaunchDescription

TOPIC = "/camera/image_raw/compressed"
EMBEDDING = "/saccade/embedding"
LEAST_EMBEDDINGS = 20
MOST_ENCODED = 0.6  # share of the tubelets that this bag's scene should need
MOST_LATENCY_MS = 200.0  # of 19 in 20 embeddings


@fixtures.parameterize([LocalFixture(path=Path(os.environ["SACCADE_TEST_BAG"]))])
class Fixtures:
    """Bag to play; what the encoder published when it was recorded is left out."""

    required_input_topics: ClassVar = [TOPIC]
    expected_output_topics: ClassVar = [EMBEDDING, "/saccade_encoder/event", "/saccade_encoder/info"]


@run.default()
class Run:
    """The encoder, as on the robot."""

    def generate_launch_description(self) -> LaunchDescription:
        """Include encoder.launch.py."""
        file = PathJoinSubstitution([FindPackageShare("saccade_ros"), "launch", "encoder.launch.py"])
        arguments = {"topics": TOPIC, "threads": "2"}
        return LaunchDescription(
            [IncludeLaunchDescription(PythonLaunchDescriptionSource(file), launch_arguments=arguments.items())]
        )


@analyze
class Analyze:
    """Limits that the run must keep; each method is a unittest."""

    def _embeddings(self) -> list:
        return [message for _, message, _ in read_messages(self.reader, topics=[EMBEDDING])]

    def test_camera_is_embedded(self) -> None:
        """Embeddings come, with stamps that grow."""
        stamps = [(m.header.stamp.sec, m.header.stamp.nanosec) for m in self._embeddings()]
        assert len(stamps) >= LEAST_EMBEDDINGS
        assert stamps == sorted(set(stamps))

    def test_calm_scene_is_reused(self) -> None:
        """The gate reuses most of the embeddings."""
        embeddings = self._embeddings()
        encoded = sum(m.encoded for m in embeddings)
        assert encoded <= MOST_ENCODED * len(embeddings)

    def test_embeddings_are_in_time(self) -> None:
        """Nearly all of them come within the limit."""
        latencies = sorted(m.total_ms for m in self._embeddings())
        assert latencies[int(0.95 * (len(latencies) - 1))] <= MOST_LATENCY_MS

    def test_no_image_is_refused(self) -> None:
        """No image is dropped for a fault of its own; what is replaced by a newer one is not counted."""
        worst: Counter[str] = Counter()
        for _, message, _ in read_messages(self.reader, topics=["/diagnostics"]):
            for pair in (pair for status in message.status for pair in status.values):
                if pair.key in ("frames_dropped.undecodable", "frames_dropped.encoder_error"):
                    worst[pair.key] = max(worst[pair.key], int(pair.value))
        assert sum(worst.values()) == 0, dict(worst)
