"""The SROS2 policy is that of the node's real graph."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2; `make test` brings it")

from graph import Graph

pytestmark = pytest.mark.ros
SHIPPED = Path(__file__).parents[2] / "config" / "encoder.policy.xml"


def policy_of_running(name: str, domain_id: int) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "saccade_ros.nodes.security_policy", name],
        env={**os.environ, "ROS_DOMAIN_ID": str(domain_id)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_shipped_policy_is_that_of_a_node_at_its_defaults():
    with Graph() as graph:
        graph.wait_active()
        read = policy_of_running("/saccade_encoder", graph.domain_id)
    assert read.stdout == SHIPPED.read_text(encoding="utf-8"), "python -m saccade_ros.nodes.security_policy writes it"


def test_policy_has_each_topic_and_service_once():
    policy = ElementTree.parse(SHIPPED).getroot()
    allowed = {
        next(iter(group.attrib)): [item.text for item in group]
        for group in policy.iter()
        if "ALLOW" in group.attrib.values()
    }
    assert set(allowed) == {"reply", "publish", "subscribe"}, "the node calls no service"
    assert "/camera/image_raw" in allowed["subscribe"]
    assert {"/saccade/embedding", "/diagnostics", "/saccade_encoder/event"} <= set(allowed["publish"])
    assert {"/saccade_encoder/change_state", "/saccade_encoder/reset"} <= set(allowed["reply"])
    assert all(len(names) == len(set(names)) for names in allowed.values())


def test_node_that_is_not_there_is_named():
    read = policy_of_running("/nobody", 99)
    assert read.returncode == 1
    assert read.stderr == "/nobody is not there: name a running node, such as /saccade_encoder\n"
