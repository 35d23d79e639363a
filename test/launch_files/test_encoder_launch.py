"""The launch file for real: `ros2 launch` brings the node up active; its arguments reach it; nothing is left behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("launch_ros", reason="launch_ros is on robots, not in the registries that `make env` uses")
pytest.importorskip("ros2launch", reason="ros2launch is on robots, not in the registries that `make env` uses")

from graph import Graph

LAUNCH_FILE = Path(__file__).parents[2] / "launch" / "encoder.launch.py"


class LaunchedGraph(Graph):
    """Starts the node through `ros2 launch` instead of by itself."""

    def start(self) -> "subprocess.Popen[str]":
        code = "import sys; from ros2cli.cli import main; sys.exit(main(argv=sys.argv[1:]))"
        arguments = [f"{key}:={value}" for key, value in self.launch_arguments.items()]
        return subprocess.Popen(
            [sys.executable, "-c", code, "launch", str(LAUNCH_FILE), *arguments],
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
        "robot/saccade_encoder", namespace="robot", topics="/front/image_raw,/rear/image_raw/compressed"
    ) as g:
        g.wait_active()
        info = g.infos[-1]
        assert info.streams == ["/front/image_raw", "/rear/image_raw/compressed"]
        assert (info.model, info.fps) == ("tiny", 4.0)
        assert g.node.count_publishers("/saccade/embedding") == 1


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
    assert "could not be configured; its log says why" in graph.log


def test_interrupt_ends_launch_and_node():
    with launched() as graph:
        graph.wait_active()
        graph.spin(1.0)  # launch_ros 0.26.6 hangs if interrupted before it has read the answer to its last transition
        graph.process.send_signal(signal.SIGINT)
        assert graph.process.wait(timeout=30) == 0
        graph.spin(1.0)
        assert graph.node.count_publishers("/saccade/embedding") == 0
