"""The launch files for real: `ros2 launch` brings the node up active; arguments reach it; nothing is left behind."""

import os
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
