"""The launch files for real: `ros2 launch` brings the node up active; arguments reach it; nothing is left behind."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("launch_ros", reason="launch_ros is on robots, not in the registries that `make env` uses")
pytest.importorskip("ros2launch", reason="ros2launch is on robots, not in the registries that `make env` uses")

from clips import write_video
from graph import Graph

LAUNCH = Path(__file__).parents[2] / "launch"
LAUNCH_FILE = LAUNCH / "encoder.launch.py"
ROS2 = (sys.executable, "-c", "import sys; from ros2cli.cli import main; sys.exit(main(argv=sys.argv[1:]))")


def ros2_launch(file: str, **arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run a launch file to its end."""
    given = [f"{key}:={value}" for key, value in arguments.items()]
    command = [*ROS2, "launch", str(LAUNCH / file), *given]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False
    )


class LaunchedGraph(Graph):
    """Starts the node through `ros2 launch` instead of by itself."""

    def start(self) -> "subprocess.Popen[str]":
        arguments = [f"{key}:={value}" for key, value in self.launch_arguments.items()]
        return subprocess.Popen(
            [*ROS2, "launch", str(LAUNCH_FILE), *arguments],
            env={**os.environ, "ROS_DOMAIN_ID": str(self.domain_id)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def launched(name: str = "saccade_encoder", **arguments: str) -> LaunchedGraph:
    graph = LaunchedGraph(name)
    graph.launch_arguments = {"model": "tiny", **{key: value for key, value in arguments.items() if value}}
    return graph


def test_node_is_active_with_the_arguments_given():
    with launched(
        "robot/saccade_encoder",
        namespace="robot",
        topics="front/image_raw,/rear/image_raw/compressed",
        output_topic="embedding",
        precision="bf16",
        threads="2",
    ) as g:
        g.wait_active()
        info = g.infos[-1]
        assert info.streams == ["/robot/front/image_raw", "/rear/image_raw/compressed"]
        assert (info.model, info.fps, info.precision, info.threads) == ("tiny", 4.0, "bf16", 2)
        assert g.node.count_publishers("/robot/embedding") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"params_file": "/absent.yaml"}, "params_file is '/absent.yaml', which cannot be read"),
        ({"log_level": "verbose"}, "log_level is 'verbose': choose one of debug"),
        ({"use_sim_time": "yes"}, "use_sim_time is 'yes': give true or false"),
        ({"respawn": "on"}, "respawn is 'on': give true or false"),
        ({"backend": "trt"}, "backend is 'trt': choose one of auto"),
        ({"device": "gpu0"}, "device is 'gpu0': choose one of auto"),
        ({"threads": "all"}, "threads is 'all': give a whole number"),
    ],
)
def test_argument_that_cannot_be_ends_the_launch_by_name(arguments, said):
    done = ros2_launch("encoder.launch.py", **arguments)
    assert done.returncode == 1
    assert said in done.stdout
    assert "process started" not in done.stdout


def test_node_that_dies_ends_the_launch_with_a_status():
    with launched() as graph:
        graph.wait_active()
        (child,) = children(graph.process.pid)
        os.kill(child, signal.SIGKILL)
        assert graph.process.wait(timeout=30) == 1
    assert "the encoder died with status -9" in graph.log


def test_node_that_dies_comes_back_active_where_that_is_asked_for():
    with launched(respawn="true") as graph:
        graph.wait_active()
        (child,) = children(graph.process.pid)
        os.kill(child, signal.SIGKILL)
        known = len(graph.infos)
        graph.wait_for(lambda: len(graph.infos) > known, "the info of the new process")
        graph.wait_for(lambda: graph.state() == "active", "active state")
        assert children(graph.process.pid) != [child]


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ({}, 0, "onnxruntime fp32"),
        ({"calibration": "/absent.mp4"}, 1, "/absent.mp4 does not exist"),
        ({"out": "/proc/none"}, 1, "/proc/none cannot be written"),
        ({"model": "no-such-model"}, 1, "no-such-model"),
        ({"precisions": "fp8"}, 1, "precisions is 'fp8': choose one of"),
    ],
)
def test_export_launch_ends_with_the_status_of_the_export(tmp_path, arguments, status, said):
    clip = write_video(tmp_path / "clip.mp4", frames=120)
    usual = {"model": "tiny", "calibration": clip, "out": tmp_path / "out", "window": 2, "tubelets": 4}
    done = ros2_launch("export.launch.py", **{**usual, "precisions": "fp32", **arguments})
    assert said in done.stdout
    assert done.returncode == status


@pytest.mark.parametrize("namespace", ["", "fleet/robot"])
def test_log_level_reaches_the_node_in_its_namespace(namespace):
    name = f"{namespace}/saccade_encoder".lstrip("/")
    with launched(name, namespace=namespace, log_level="error") as quiet:
        quiet.wait_active()
        quiet.spin(1.0)
    assert "loading tiny" not in quiet.log
    with launched(name, namespace=namespace) as usual:
        usual.wait_active()
        usual.spin(1.0)
    assert "loading tiny" in usual.log


def test_without_autostart_the_node_waits():
    with launched(autostart="false") as graph:
        assert graph.state() == "unconfigured"


def test_model_that_cannot_be_had_leaves_a_node_that_says_so():
    with launched(model="no-such-model") as graph:
        graph.wait_for(lambda: graph.state() == "unconfigured", "an unconfigured node")
        graph.spin(3.0)
        assert graph.state() == "unconfigured"
    assert "on_configure: encoder.model 'no-such-model' is no folder" in graph.log


def test_interrupt_ends_launch_and_node():
    with launched() as graph:
        graph.wait_active()
        graph.process.send_signal(signal.SIGINT)
        assert graph.process.wait(timeout=30) == 0
        graph.spin(1.0)
        assert graph.node.count_publishers("/saccade/embedding") == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"bag": "/absent"}, "bag is '/absent', which does not exist"),
        ({"player": "vlc"}, "player is 'vlc': choose one of saccade, ros2bag"),
        ({"params_file": "/absent.yaml"}, "params_file is '/absent.yaml', which cannot be read"),
    ],
)
def test_replay_argument_that_cannot_be_ends_the_launch_by_name(tmp_path, arguments, said):
    done = ros2_launch("replay.launch.py", **{"bag": tmp_path, **arguments})
    assert done.returncode == 1
    assert said in done.stdout
    assert "process started" not in done.stdout


def test_replay_launch_plays_measures_and_ends_with_the_recording(tmp_path):
    clip, out = write_video(tmp_path / "clip.mp4", frames=8), tmp_path / "report"
    done = ros2_launch("replay.launch.py", bag=clip, params_file=params(tmp_path), player_arguments=f"--out {out}")
    assert done.returncode == 0, done.stdout
    assert (out / "report.html").exists()


def test_replay_launch_that_cannot_play_ends_with_a_status(tmp_path):
    (tmp_path / "notes.txt").write_text("no recording")
    done = ros2_launch("replay.launch.py", bag=tmp_path / "notes.txt", params_file=params(tmp_path))
    assert done.returncode == 1
    assert "the player ended with status 1" in done.stdout


def test_ros2_bag_play_starts_when_the_encoder_is_active(tmp_path, monkeypatch):
    """rosbag2 is not installed where this can run: a program in its place says what it was given and what it finds."""
    said, state = tmp_path / "said", shlex.join([*ROS2, "lifecycle", "get", "/saccade_encoder"])
    (tmp_path / "ros2").write_text(f'#!/bin/sh\necho "$@" >> {said}\nexec {state} >> {said}\n')
    (tmp_path / "ros2").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    given = {"bag": tmp_path, "player": "ros2bag", "player_arguments": "--rate 2.0 --topics '/a b'"}
    done = ros2_launch("replay.launch.py", model="tiny", **given)
    assert done.returncode == 0, done.stdout
    assert said.read_text() == f"bag play {tmp_path} --rate 2.0 --topics /a b\nactive [3]\n"


def test_encoder_that_cannot_be_configured_ends_the_replay(tmp_path):
    done = ros2_launch("replay.launch.py", bag=tmp_path, player="ros2bag", model="no-such-model")
    assert done.returncode == 1
    assert "the encoder cannot be configured" in done.stdout
    assert "playing" not in done.stdout


def params(folder: Path) -> Path:
    """A small model, at every frame."""
    file = folder / "params.yaml"
    file.write_text("/**:\n  ros__parameters:\n    encoder: {model: tiny, window: 2}\n    stream: {fps: 0.0}\n")
    return file
