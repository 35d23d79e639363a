"""The replay benchmark over a real graph: what `make demo` runs."""

import html
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2; `make test` brings it")

import rclpy
from clips import write_video
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from rclpy.node import Node
from recorded import image_of, record_stamped
from rosbags.rosbag1 import Writer as Rosbag1Writer
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from saccade_ros.default_model import ADVICE, SOURCE
from saccade_ros.params_file import load_config
from saccade_ros.recordings import open_source
from saccade_ros.replay.inprocess import replay as replay_in_process

pytestmark = pytest.mark.ros

DEMO = Path(__file__).parents[2] / "config" / "demo.yaml"


def run_replay(source: Path, out: Path, params: Path = DEMO, **more: str) -> subprocess.CompletedProcess[str]:
    """Run it; again where the machine stood still for so long that the player was late, which is rightly no result."""
    environment = {key: value for key, value in os.environ.items() if key != "ROS_DOMAIN_ID"} | more
    command = [sys.executable, "-m", "saccade_ros.nodes.replay_node", source, "--params", params, "--out", out]
    for _ in range(3):
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=150
        )
        if "NO RESULT: the player was late" not in done.stdout:
            break
    return done


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A clip of 61 frames, played once: the output folder and what was printed."""
    folder = tmp_path_factory.mktemp("replay")
    done = run_replay(write_video(folder / "clip.mp4", frames=61), folder / "out")
    assert done.returncode == 0, done.stdout
    return folder, done.stdout


def bag_of(played: tuple[Path, str]) -> Path:
    (bag,) = (played[0] / "out").glob("clip_*_bag")
    return bag


def test_every_frame_and_embedding_is_accounted_for(played):
    summary = json.loads((played[0] / "out" / "summary.json").read_text())
    assert summary["frames_in"] == 61
    assert summary["frames_used"] == 60
    assert summary["frames_dropped"] == {"reset": 1}
    assert summary["published"] == summary["received"] == summary["tubelets"] == 30
    assert summary["encoded"] + summary["skipped"] == 30
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p95"] <= summary["latency_ms"]["p99"]
    assert ":128px-crop:" in summary["encoder_id"]
    assert summary["weights"] == SOURCE
    assert summary["balanced"]


def test_record_of_a_trial_over_ros_is_as_its_schema_says(played):
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema; `make test` brings it")
    summary = json.loads((played[0] / "out" / "summary.json").read_text())
    jsonschema.validate(summary, json.loads((Path(__file__).parents[2] / "docs" / "replay.schema.json").read_text()))
    assert (summary["mode"], summary["is_result"]) == ("recorded", True)
    assert summary["fidelity"]["samples"] == summary["tubelets"], "all are found again by their stamps"
    assert summary["jitter_ms"]["p50"] is not None
    assert summary["ros2_benchmark"]["BasicPerformanceMetrics.NUM_FRAMES_SENT"] == 61


def test_a_line_a_second_and_the_totals_are_printed(played):
    lines = played[1].splitlines()
    live = [line for line in lines if "tubelets" in line and "novelty" in line]
    assert len(live) >= 2
    for word in ("frames", "encoded", "skipped", "p50", "dropped"):
        assert word in live[-1]
    assert any("frames in" in line and "61" in line for line in lines)


def test_the_node_says_once_what_the_default_model_is_good_for(played):
    assert played[1].count(f"[saccade_encoder]: {ADVICE}") == 1
    assert ADVICE in html.unescape((played[0] / "out" / "report.html").read_text())


def test_novelty_and_decisions_are_those_of_the_engine_in_process(played):
    """The same bag, once over DDS and once in this process."""
    summary = json.loads((played[0] / "out" / "summary.json").read_text())
    bag = bag_of(played)
    recording = replay_in_process(open_source(bag), load_config(DEMO), lambda *_: None)
    assert (recording.encoded, len(recording.rows)) == (summary["encoded"], summary["tubelets"])


def test_second_run_plays_the_bag_written_before(played):
    done = run_replay(played[0] / "clip.mp4", played[0] / "out")
    assert done.returncode == 0
    assert "written from clip.mp4 before" in done.stdout


def test_a_bag_is_played_as_it_is(played):
    done = run_replay(bag_of(played), played[0] / "other")
    assert done.returncode == 0
    assert json.loads((played[0] / "other" / "summary.json").read_text())["frames_in"] == 61


def renamed(played: tuple[Path, str], bag: Path, topic: str) -> Path:
    """The bag that was played, under another topic."""
    with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer, open_source(bag_of(played)) as source:
        connection = writer.add_connection(topic, source.msgtype, typestore=get_typestore(Stores.ROS2_JAZZY))
        for image in source:
            writer.write(connection, image.time_ns, image.cdr)
    return bag


def test_topic_that_ros_2_forbids_is_played_under_another_name(played, tmp_path):
    done = run_replay(renamed(played, tmp_path / "run#1", "/cam-left/1/compressed"), tmp_path / "out")
    assert done.returncode == 0, done.stdout
    assert "/cam-left/1/compressed is no topic name of ROS 2: played on /cam_left/_1/compressed" in done.stdout
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["frames_in"] == 61


def test_compressed_images_play_on_a_topic_of_any_name(played, tmp_path):
    """The encoder subscribes with the publisher's type."""
    done = run_replay(renamed(played, tmp_path / "bag", "/CAM_FRONT/image_rect_compressed"), tmp_path / "out")
    assert done.returncode == 0, done.stdout
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["frames_in"] == 61


def test_topic_without_a_name_near_it_is_refused_in_a_line(played, tmp_path):
    done = run_replay(renamed(played, tmp_path / "bag", "/" + 300 * "a"), tmp_path / "out")
    assert done.returncode == 1
    assert "rename the topic in the bag" in done.stdout
    assert "Traceback" not in done.stdout


def test_what_cannot_be_played_is_refused_in_a_line(tmp_path):
    done = run_replay(tmp_path / "absent.mp4", tmp_path / "out")
    assert done.returncode == 1
    assert "absent.mp4 does not exist" in done.stdout
    assert "Traceback" not in done.stdout


def test_encoder_that_refuses_its_model_ends_the_replay(played, tmp_path):
    params = tmp_path / "params.yaml"
    params.write_text(DEMO.read_text().replace("model: default", "model: no-such-model"))
    done = run_replay(bag_of(played), tmp_path / "out", params)
    assert done.returncode == 1
    assert "no-such-model' is no folder" in done.stdout
    assert "the encoder refused transition" in done.stdout


@pytest.mark.parametrize(
    ("stamps_ns", "fields", "why"),
    [
        ([0] * 10, {}, "images are stamped no later than the one before (0.000000000 s after 0.000000000 s)"),
        ([10**8 * i for i in range(10)], {"encoding": lambda place: "16UC1"}, "16UC1 is a depth image"),
        ([10**8 * i for i in range(10)], {"frame_id": lambda place: "lr"[place % 2]}, "give each camera a topic"),
    ],
    ids=["stamps all 0", "depth", "two cameras"],
)
def test_empty_result_is_refused_with_its_cause(stamps_ns, fields, why, tmp_path):
    params = tmp_path / "params.yaml"  # a frame lost on the way would make a tubelet of the two beside it
    params.write_text(DEMO.read_text().replace("/camera/image_raw/compressed", "/camera"))
    done = run_replay(record_stamped(tmp_path / "bag", stamps_ns, **fields), tmp_path / "out", params)
    assert done.returncode == 1
    assert "replay: nothing came of bag: " in done.stdout
    assert why in done.stdout


def test_losses_on_the_way_are_told_and_the_accounts_still_balance(played, tmp_path):
    """A best effort subscription eight deep, and a bag with all its frames in one moment."""
    bag = tmp_path / "burst"
    with Writer(bag, version=9) as writer, open_source(bag_of(played)) as source:
        connection = writer.add_connection(source.topic, source.msgtype, typestore=get_typestore(Stores.ROS2_JAZZY))
        for image in source:
            writer.write(connection, 10**9, image.cdr)
    params = tmp_path / "params.yaml"
    params.write_text(DEMO.read_text().replace("reliability: reliable", "reliability: best_effort").replace("50", "8"))
    done = run_replay(bag, tmp_path / "out", params)
    assert done.returncode == 0, done.stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["frames_in"] <= 61
    assert summary["balanced"]
    if summary["frames_in"] < 50:
        lost = (61 - summary["frames_in"]) / 61
        overflowed = summary["frames_dropped"].get("overflow", 0) / summary["frames_in"]  # the gravest is named
        worst = "subscription.reliability to reliable" if lost > overflowed else "came faster than they were encoded"
        assert worst in summary["remark"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"<td>frames_lost_in_transport</td><td>{61 - summary['frames_in']}</td>" in page


def test_diagnostics_of_others_are_not_taken_for_the_encoders(played, tmp_path):
    """In a domain that the user chose, other nodes report too."""
    context = Context()
    rclpy.init(context=context, domain_id=97)
    other, ended = Node("driver", context=context), threading.Event()
    publisher = other.create_publisher(DiagnosticArray, "/diagnostics", 10)
    message = DiagnosticArray(status=[DiagnosticStatus(name="driver: motor", message="warm")])

    def report() -> None:
        while not ended.wait(0.02):
            publisher.publish(message)

    thread = threading.Thread(target=report)
    thread.start()
    try:
        done = run_replay(bag_of(played), tmp_path / "out", ROS_DOMAIN_ID="97")
    finally:
        ended.set()
        thread.join()
        other.destroy_node()
        rclpy.shutdown(context=context)
    assert done.returncode == 0, done.stdout
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["frames_in"] == 61


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_no_process_is_left_behind_however_the_replay_ends(played, tmp_path, how):
    command = [sys.executable, "-m", "saccade_ros.nodes.replay_node", str(bag_of(played)), "--params", str(DEMO)]
    environment = {key: value for key, value in os.environ.items() if key != "ROS_DOMAIN_ID"}
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    assert any("loading default" in line for line in process.stdout)
    encoder, player = (Path("/proc") / pid for pid in children.read_text().split())
    process.send_signal(how)
    log = process.stdout.read()
    assert process.wait(timeout=40) == (-how if how == signal.SIGKILL else 128 + how)
    deadline = time.monotonic() + 10
    while (encoder.exists() or player.exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not encoder.exists()
    assert not player.exists()
    assert not (tmp_path / "out").exists()
    assert "nodes/replay_node.py" not in log, "a traceback"
    assert how == signal.SIGKILL or f"replay: ended by {how.name}; no report was written" in log


def test_place_of_the_report_is_tried_before_the_encoder_is_started(played):
    done = run_replay(bag_of(played), Path("/proc/none"))
    assert done.returncode == 1
    assert "/proc/none/report.html cannot be written" in done.stdout
    assert "loading default" not in done.stdout


def test_ros1_bag_is_played(played, tmp_path):
    types = get_typestore(Stores.ROS1_NOETIC)
    with Rosbag1Writer(tmp_path / "old.bag") as writer, open_source(bag_of(played)) as source:
        connection = writer.add_connection("/cam/compressed", source.msgtype, typestore=types)
        for image in source:
            message = image_of(types, source.msgtype, 0, image.image.data.tobytes(), seq=0)
            stamp = replace(message.header.stamp, sec=image.stamp_ns // 10**9, nanosec=image.stamp_ns % 10**9)
            message = replace(message, header=replace(message.header, stamp=stamp))
            writer.write(connection, image.time_ns, types.serialize_ros1(message, source.msgtype))
    done = run_replay(tmp_path / "old.bag", tmp_path / "out")
    assert done.returncode == 0, done.stdout
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["frames_in"] > 50


def test_a_folder_that_the_replay_did_not_write_is_left_alone(played, tmp_path):
    """A robot's own recording beside a video of the same name, older than the video."""
    own = tmp_path / "clip_bag"
    own.mkdir()
    (own / "precious.db3").write_bytes(b"a day in the field")
    video = Path(shutil.copy(played[0] / "clip.mp4", tmp_path / "clip.mp4"))
    assert run_replay(video, tmp_path).returncode == 0
    assert (own / "precious.db3").read_bytes() == b"a day in the field"
