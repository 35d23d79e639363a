"""Trials over a real graph: every frame of every trial is accounted for, whatever the mode, the source and the QoS."""

import threading
import time
from contextlib import ExitStack

import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2; `make test` brings it")

from graph import next_domain  # noqa: E402
from rclpy.context import Context  # noqa: E402
from rclpy.node import Node  # noqa: E402
from recorded import BEST_EFFORT, TYPES, picture  # noqa: E402
from rich.console import Console  # noqa: E402
from rosbags.rosbag2 import Writer as Rosbag2Writer  # noqa: E402
from sensor_msgs.msg import CompressedImage  # noqa: E402

from saccade_ros.config import Config  # noqa: E402
from saccade_ros.nodes.playable import ALL, open_playable  # noqa: E402
from saccade_ros.nodes.player_client import PlayerError  # noqa: E402
from saccade_ros.nodes.replay_node import Options, check_player, run_benchmark  # noqa: E402
from saccade_ros.recordings import open_source  # noqa: E402
from saccade_ros.recordings.bag_writer import _jpeg  # noqa: E402
from saccade_ros.recordings.serialized import compressed_message, serialize  # noqa: E402
from saccade_ros.recordings.source import COMPRESSED  # noqa: E402
from saccade_ros.replay.modes import PlayOptions  # noqa: E402

pytestmark = pytest.mark.ros

FAST = "/**: {ros__parameters: {encoder: {model: tiny, window: 3}, backend: {threads: 1}, stream: {fps: 5.0}}}"
MS = 10**6


def record(bag, topics, frames=24, qos=()):
    """JPEGs of 96x64, 40 ms apart, of which every tenth is cut."""
    with Rosbag2Writer(bag, version=9) as writer:
        for topic in topics:
            connection = writer.add_connection(topic, COMPRESSED, typestore=TYPES, offered_qos_profiles=qos)
            for index in range(frames):
                stamp_ns, jpeg = 1000 * MS + 40 * MS * index, _jpeg(picture(index))
                message = compressed_message(stamp_ns, "camera", "jpeg", jpeg[:200] if index % 10 == 3 else jpeg)
                writer.write(connection, stamp_ns, serialize(message))
    return bag


@pytest.fixture
def graph(monkeypatch, tmp_path):
    """Runs what is given options and a recording in a domain of its own."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(next_domain()))
    rclpy.init()
    params = tmp_path / "params.yaml"
    params.write_text(FAST)

    def run(bag, topic=(), **play):
        options = Options(source=bag, out=tmp_path, topic=topic, params=params, play=PlayOptions(**play))
        with ExitStack() as opened:
            playable = open_playable(options.source, topic, 0.0, tmp_path, Console(), opened)
            if not options.play.encoder:
                return check_player(options, playable)
            return run_benchmark(options, Config(), playable, Console())

    yield run
    rclpy.try_shutdown()


def assert_accounted(benchmark):
    for trial in benchmark.trials:
        assert trial.balanced, trial.classes
        assert trial.frames == trial.played > 0


def test_rates_in_turn_on_several_topics_recorded_as_best_effort(graph, tmp_path):
    bag = record(tmp_path / "bag", ["/left/compressed", "/right/compressed"], qos=[BEST_EFFORT])
    recording = graph(bag, topic=(ALL,), mode="steps", hz=(10.0, 60.0), seconds=2.0, reliability="reliable")
    benchmark = recording.benchmark
    assert_accounted(benchmark)
    slow, fast = benchmark.trials
    assert (slow.played, fast.played) == (40, 240)
    assert slow.classes["malformed.undecodable"] > 0
    assert "not_sampled" not in slow.classes, "every image is taken, though the parameters say 5 a second"
    assert {row.stream for row in recording.rows} == {"/left/compressed", "/right/compressed"}
    assert len(slow.end_to_end_ms) == len(slow.latency_ms) > 0
    assert slow.rss_mb
    assert slow.cpu_cores > 0
    assert len(benchmark.configure_s) == 2
    assert benchmark.first_embedding_s > 0


def test_last_tubelet_of_a_slow_encoder_is_waited_for(graph, tmp_path, monkeypatch):
    """Deactivated, a node waits 2 s for the tubelet in hand: what came later counted for the next trial."""
    monkeypatch.setenv("SACCADE_FAULTS", "step:hang:1:4")
    bag = record(tmp_path / "bag", ["/camera/compressed"])
    (trial,) = graph(bag, mode="fixed", hz=(2.0,), seconds=1.0).benchmark.trials
    assert trial.balanced
    assert trial.classes == {"encoded_dense": 2}


def test_search_for_the_peak(graph, tmp_path):
    bag = record(tmp_path / "bag", ["/camera/compressed"])
    play = {"mode": "peak", "hz": (20.0,), "seconds": 0.5, "tolerance": 1.0, "max_latency_ms": 5000.0, "max_loss": 0.5}
    benchmark = graph(bag, **play).benchmark
    assert_accounted(benchmark)
    if benchmark.peak_hz is not None:  # a loaded machine may have none
        assert benchmark.check.offered_hz == 3 * benchmark.peak_hz
        assert benchmark.check.classes["counted"] > 0
    assert len(benchmark.configure_s) == 2


@pytest.mark.parametrize("memory_mb", [100, 0], ids=["in memory", "read ahead"])
def test_player_alone_loses_nothing(graph, tmp_path, memory_mb):
    bag = record(tmp_path / "bag", ["/camera/compressed"])
    (trial,) = graph(bag, mode="fixed", hz=(100.0,), seconds=1.0, encoder=False, memory_mb=memory_mb)
    assert trial.classes == {"counted": 100, "lost_in_transport": 0}
    assert trial.passed


def test_what_others_play_is_accounted_for(graph, tmp_path, monkeypatch):
    """As `ros2 bag play`: it begins once somebody listens, and says nothing of its schedule."""
    bag, others = record(tmp_path / "bag", ["/camera/compressed"], frames=60), Context()
    monkeypatch.setattr("saccade_ros.nodes.trial_node.SILENCE_S", 1.0)
    rclpy.init(context=others)
    node = Node("rosbag2_player", context=others)
    publisher = node.create_publisher(CompressedImage, "/camera/compressed", 100)

    def play():
        while publisher.get_subscription_count() < 2:  # the encoder, and the one who counts
            time.sleep(0.05)
        with open_source(bag) as source:
            for image in source:
                publisher.publish(image.cdr)
                time.sleep(0.04)

    thread = threading.Thread(target=play)
    thread.start()
    try:
        benchmark = graph(bag, player="external").benchmark
    finally:
        thread.join()
        node.destroy_node()
        rclpy.shutdown(context=others)
    assert_accounted(benchmark)
    assert benchmark.trials[0].played <= 60
    assert benchmark.trials[0].classes["not_sampled"] > 0
    assert "played by others" in benchmark.remark


def test_qos_that_does_not_fit_is_refused_with_the_remedy(graph, tmp_path):
    bag = record(tmp_path / "bag", ["/camera/compressed"], qos=[BEST_EFFORT])
    override = "qos_overrides: {/camera/compressed: {subscription: {reliability: reliable}}}"
    (tmp_path / "params.yaml").write_text(FAST.replace("stream:", f"{override}, stream:"))
    with pytest.raises(PlayerError, match="which is played best effort: let --reliability and qos_overrides"):
        graph(bag)
