"""Signals while a node starts, before its imports are done: real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2; `make test` brings it")

from graph import next_domain

pytestmark = [
    pytest.mark.ros,
    pytest.mark.skipif(
        not Path("/proc/self/status").exists(), reason="reads from /proc whether signals are attended to"
    ),
]

EXPORT = ("--ros-args", "-p", "autostart:=true", "-p", "model:=tiny", "-p", "calibration:=no.mp4", "-p", "out:=absent")


def start(node: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", f"saccade_ros.nodes.{node}", *arguments],
        env={**os.environ, "ROS_DOMAIN_ID": str(next_domain())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def attends(process: "subprocess.Popen[str]", how: signal.Signals) -> bool:
    """True if the process catches or blocks the signal."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigCgt", "SigBlk"))]
    return any(mask >> how - 1 & 1 for mask in masks)


def end_by(how: signal.Signals, process: "subprocess.Popen[str]", delay_s: float = 0.0) -> tuple[int, str]:
    """Send a signal so long after the process began to attend to it; return its exit status and what it printed."""
    deadline = time.monotonic() + 30
    while not attends(process, how) and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(delay_s)
    process.send_signal(how)
    log, _ = process.communicate(timeout=60)
    return process.returncode, log


@pytest.mark.parametrize(
    ("node", "arguments", "delay_s", "how", "status"),
    [
        ("encoder_node", (), 0.0, signal.SIGTERM, 0),
        ("encoder_node", (), 0.4, signal.SIGINT, 0),
        ("encoder_node", (), 0.8, signal.SIGHUP, 0),
        ("encoder_child", (str(os.getpid()),), 0.2, signal.SIGTERM, 0),
        ("export_node", (), 0.0, signal.SIGTERM, 0),
        ("export_node", (), 0.6, signal.SIGINT, 0),
        ("export_node", EXPORT, 0.0, signal.SIGHUP, 129),
        ("replay_node", ("absent.mp4",), 0.2, signal.SIGTERM, 143),
    ],
)
def test_signal_during_the_start_ends_a_node_as_it_would_later(node, arguments, delay_s, how, status):
    ended, log = end_by(how, start(node, *arguments), delay_s)
    assert "Traceback" not in log
    assert ended == status, log


@pytest.mark.parametrize("node", ["encoder_node", "export_node", "replay_node"])
def test_crash_of_native_code_says_where(node):
    status, log = end_by(signal.SIGSEGV, start(node))
    assert status == -signal.SIGSEGV
    assert "Segmentation fault" in log
    assert f"in {node}\n" in log
