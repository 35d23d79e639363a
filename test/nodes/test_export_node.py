"""The export node over a real graph: goals, feedback, cancel, refusal; and what it exports runs in the encoder node."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2; `make test` brings it")

from action_msgs.msg import GoalStatus  # noqa: E402
from clips import write_video  # noqa: E402
from graph import Graph, vectors  # noqa: E402
from rclpy.action import ActionClient  # noqa: E402
from scenes import textured  # noqa: E402

from saccade_ros.action import ExportModel  # noqa: E402
from saccade_ros.backends.manifest import read_manifest  # noqa: E402

pytestmark = pytest.mark.ros

PICTURES = [textured(seed=i // 5 % 4) for i in range(30)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=200)


class ExportGraph(Graph):
    """Starts the export node instead, and talks to its action."""

    def start(self) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "saccade_ros.nodes.export_node", "--ros-args"]
        settings = {"model": "tiny", "window": 3, "tubelets": 12, "threads": 1, **self.settings}
        for name, value in settings.items():
            command += ["-p", f"{name}:={value}"]
        return subprocess.Popen(
            command,
            env={**os.environ, "ROS_DOMAIN_ID": str(self.domain_id)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def send(self, **fields):
        """Send a goal; returns its handle and the feedback as it comes."""
        if not hasattr(self, "client"):
            self.client = ActionClient(self.node, ExportModel, "/saccade_export/export")
            self.wait_for(self.client.server_is_ready, "action server")
            self.spin(1.0)  # an answer is lost if it is sent before the node has discovered this client
        feedback = []
        goal = ExportModel.Goal(**{name: getattr(value, "name", value) for name, value in fields.items()})
        future = self.client.send_goal_async(goal, lambda message: feedback.append(message.feedback))
        self.wait_for(future.done, "answer to the goal")
        return future.result(), feedback

    def result_of(self, handle):
        future = handle.get_result_async()
        self.wait_for(future.done, "result")
        return future.result()


def export_graph(**settings) -> ExportGraph:
    graph = ExportGraph("saccade_export", reliable=False)
    graph.settings = settings
    return graph


def test_goal_exports_with_feedback_and_the_encoder_node_runs_it(clip, tmp_path):
    out = tmp_path / "tiny"
    with export_graph(calibration=clip) as graph:
        handle, feedback = graph.send(out=str(out), precisions=["fp32", "int8"], force=True)
        assert handle.accepted
        answer = graph.result_of(handle)
    assert answer.status == GoalStatus.STATUS_SUCCEEDED, answer.result.message
    assert answer.result.manifest == str(out / "manifest.json")
    assert {a.precision for a in read_manifest(str(out)).artifacts} == {"fp32", "int8"}
    progress = [f.progress for f in feedback]
    assert len(progress) > 5
    assert progress == sorted(progress)
    assert any("int8" in f.stage for f in feedback)

    with Graph() as graph:
        graph.wait_active()
        by_torch = graph.show(PICTURES)
    with Graph(encoder__model=str(out), backend__precision="fp32") as graph:
        graph.wait_active()
        assert (graph.infos[-1].backend, graph.infos[-1].precision) == ("onnxruntime", "fp32")
        by_onnx = graph.show(PICTURES)
    assert by_onnx[0].encoder_id == by_torch[0].encoder_id
    assert [e.encoded for e in by_onnx] == [e.encoded for e in by_torch]
    assert 1 < sum(e.encoded for e in by_torch) < len(by_torch)
    expected = vectors(by_torch)
    assert np.abs(vectors(by_onnx) - expected).max() <= 1e-4 * np.abs(expected).max()
    novelty = np.array([[e.novelty for e in run] for run in (by_onnx, by_torch)])
    assert np.allclose(*novelty, rtol=1e-4, atol=1e-6, equal_nan=True)


def test_cancelled_goal_leaves_nothing(clip, tmp_path):
    out = tmp_path / "vits"
    with export_graph(calibration=clip, model="vits") as graph:
        handle, feedback = graph.send(out=str(out))
        graph.wait_for(lambda: feedback, "feedback")
        handle.cancel_goal_async()
        answer = graph.result_of(handle)
        assert answer.status == GoalStatus.STATUS_CANCELED
        assert "nothing was written" in answer.result.message
        again, _ = graph.send(out=str(out), model="tiny", precisions=["fp32"])
        assert again.accepted, "the node is free again"
        assert graph.result_of(again).status == GoalStatus.STATUS_SUCCEEDED
    assert f"exporting vits to {out}" in graph.log
    assert f"export to {out}: cancelled; nothing was written" in graph.log
    assert [path.name for path in tmp_path.iterdir()] == ["vits"]


def test_goal_that_cannot_work_is_refused_or_aborted_with_the_reason(clip, tmp_path):
    with export_graph() as graph:
        handle, _ = graph.send(out=str(tmp_path / "a"), precisions=["fp8"], calibration=str(clip))
        assert not handle.accepted
        handle, _ = graph.send(out=str(tmp_path / "b"), calibration=str(tmp_path / "absent.mp4"))
        answer = graph.result_of(handle)
        assert answer.status == GoalStatus.STATUS_ABORTED
        assert "absent.mp4 does not exist" in answer.result.message
    assert "goal refused: precisions is 'fp8': choose one of" in graph.log


def test_autostart_exports_once_and_ends(clip, tmp_path):
    with export_graph(calibration=clip, out=tmp_path / "once", autostart="true", precisions="[fp32]") as graph:
        assert graph.process.wait(timeout=60) == 0
    assert "onnxruntime fp32" in graph.log
    assert read_manifest(str(tmp_path / "once")).artifacts[0].precision == "fp32"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_an_export_of_its_own_tidily(clip, tmp_path, how):
    settings = {"autostart": "true", "model": "vits", "calibration": clip, "out": tmp_path / "out"}
    with export_graph(**settings) as graph:
        log = graph.process.stdout
        started = next(line for line in log if "exporting vits" in line)
        assert f"to {tmp_path / 'out'}: onnx fp32, onnx int8; calibrating on {clip}" in started
        time.sleep(2.0)
        graph.process.send_signal(how)
        assert graph.process.wait(timeout=60) == 128 + how
    assert f"export ended by {how.name}; nothing was written" in graph.log
    assert "Traceback" not in graph.log
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_an_idle_node_with_status_0(how):
    with export_graph() as graph:
        graph.wait_for(lambda: graph.node.count_services("/saccade_export/get_parameters"), "the node")
        graph.process.send_signal(how)
        assert graph.process.wait(timeout=20) == 0
    assert "Traceback" not in graph.log


def test_clip_is_refused_before_the_model_is_loaded(tmp_path):
    settings = {"autostart": "true", "model": "no-such-model", "calibration": "/absent.mp4", "out": tmp_path / "out"}
    with export_graph(**settings) as graph:
        assert graph.process.wait(timeout=60) == 1
    assert "/absent.mp4 does not exist" in graph.log
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_node_leaves_nothing_that_loads(clip, tmp_path, how):
    with export_graph(calibration=clip, model="vits") as graph:
        _, feedback = graph.send(out=str(tmp_path / "out"))
        graph.wait_for(lambda: any("fp32" in f.stage for f in feedback), "the export well under way")
        graph.process.send_signal(how)
        graph.process.wait(timeout=60)
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.rglob("manifest.json")) == []
    if how == signal.SIGINT:
        deadline = time.monotonic() + 5
        while list(tmp_path.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert list(tmp_path.iterdir()) == []
