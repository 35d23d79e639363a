"""What ROS refuses: one line that names it, in a process of each node and for each kind."""

import os
import subprocess
import sys

import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2; `make test` brings it")

from graph import next_domain  # noqa: E402
from rclpy.context import Context  # noqa: E402
from rclpy.node import Node  # noqa: E402

from saccade_ros.config import ConfigError  # noqa: E402
from saccade_ros.nodes.ros_arguments import ros_refusals  # noqa: E402

pytestmark = pytest.mark.ros


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["-r", "image:=/1st"], "image:=/1st"),
        (["-r", "nonsense"], "nonsense"),
        (["-r"], "-r"),
        (["-r", "__node:=1st"], "1st"),
        (["-r", "__ns:=/a b"], "a b"),
        (["-p", "gate.tau"], "gate.tau"),
        (["-p", "gate.tau:=[1, two]"], "gate.tau"),
        (["--params-file", "/absent.yaml"], "/absent.yaml"),
        (["--log-level", "loud"], "loud"),
        (["--bogus"], "--bogus"),
    ],
)
def test_refusal_is_one_line_that_names_the_argument(arguments, named):
    context = Context()
    with pytest.raises(ConfigError) as refused, ros_refusals():  # noqa: PT012
        rclpy.init(args=["node", "--ros-args", *arguments], context=context, domain_id=next_domain())
        Node("named", context=context)
    rclpy.try_shutdown(context=context)
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "correct what follows --ros-args" in str(refused.value)


@pytest.mark.parametrize("node", ["encoder_node", "export_node", "replay_node"])
def test_node_ends_with_status_1_and_the_line(node, tmp_path):
    own, remap = ["absent.mp4"] if node == "replay_node" else [], "image:=/1st"
    done = subprocess.run(
        [sys.executable, "-m", f"saccade_ros.nodes.{node}", *own, "--ros-args", "-r", remap],
        env={**os.environ, "ROS_DOMAIN_ID": str(next_domain())},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert remap in done.stdout
    assert "Traceback" not in done.stdout
    assert len([line for line in done.stdout.splitlines() if "[rcl]" not in line]) == 1  # rcl has lines of its own
