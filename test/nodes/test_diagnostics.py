"""/diagnostics: silence is never OK. Each camera's status says what is wrong and what to do, on a real graph."""

import time
from contextlib import ExitStack
from dataclasses import replace
from threading import Event

import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2; `make test` brings it")

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from graph import Graph, jpeg, next_domain, raw_image, status_values  # noqa: E402
from rclpy.context import Context  # noqa: E402
from rclpy.node import Node  # noqa: E402
from scenes import PERIOD_NS, frames_of, textured, tiny_config  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from saccade_ros.config import NodeConfig  # noqa: E402
from saccade_ros.nodes.diagnostics import StreamMonitor  # noqa: E402
from saccade_ros.nodes.image_topic import ImageTopic  # noqa: E402
from saccade_ros.nodes.worker import EncodeWorker  # noqa: E402
from saccade_ros.pipeline import Pipeline  # noqa: E402

pytestmark = pytest.mark.ros

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
SCENE = textured()
HOUR_NS = 3600 * 10**9


def shown(i: int, **header) -> Image:
    return raw_image(SCENE, header.pop("stamp_ns", 10**9 + i * PERIOD_NS), **header)


# What each camera publishes as its i-th image, and what its status must say.
CAMERAS = {
    "/good": (lambda i: shown(i), "0", "tubelets/s"),
    "/zero": (lambda i: shown(i, stamp_ns=0), "1", "header.stamp"),
    "/left_and_right": (lambda i: shown(i, frame_id="lr"[i % 2]), "1", "topic of its own"),
    "/hour_apart": (lambda i: shown(i, stamp_ns=10**12 + i * PERIOD_NS + i % 2 * HOUR_NS), "1", "one clock"),
    "/sizes": (lambda i: raw_image(SCENE[: 200 + i % 2], 10**9 + i * PERIOD_NS), "1", "one frame_id and size"),
    "/far_between": (lambda i: shown(i, stamp_ns=10**9 + i * 5 * 10**9), "1", "raise stream.max_gap_s"),
    "/depth": (lambda i: Image(encoding="32FC1", height=2, width=2, step=8, data=bytes(16)), "1", "a colour topic"),
    "/cut/compressed": (lambda i: jpeg(SCENE, 10**9 + i * PERIOD_NS, cut=0.5), "1", "undecodable"),
    "/jpeg_of_any_name": (lambda i: jpeg(SCENE, 10**9 + i * PERIOD_NS), "0", "tubelets/s"),
    "/text": (lambda i: String(data="no image"), "1", "published as std_msgs/msg/String by /test_client"),
    "/stands_still": (lambda i: None, "1", "/test_client is there to publish /stands_still, and nothing arrives"),
}
TOPICS = [*CAMERAS, "/nobody", "/two_publishers"]


@pytest.fixture(scope="module")
def statuses():
    """Statuses by camera of one node to which all these cameras publish for some seconds; and its log."""
    parameters = {"node.topics": TOPICS, "node.silence_s": 2.0, "node.loss_share": 0.5, "encoder.window": 1}
    with Graph(**{name.replace(".", "__"): value for name, value in parameters.items()}) as graph:
        graph.wait_active()
        kinds = {topic: type(make(0) or Image()) for topic, (make, *_) in CAMERAS.items()}
        publishers = {topic: graph.node.create_publisher(kind, topic, 10) for topic, kind in kinds.items()}
        second = Node("second_camera", context=graph.context)
        both = [node.create_publisher(Image, "/two_publishers", 10) for node in (graph.node, second)]
        for i in range(60):
            for topic, publisher in publishers.items():
                if (message := CAMERAS[topic][0](i)) is not None:
                    publisher.publish(message)
            both[i // 2 % 2].publish(shown(i))
            graph.spin(0.2)  # slowly: the encoder keeps up with all of them
        last = graph.diagnostics[-1]
        second.destroy_node()
    found = {topic: status_values(last, place) for place, topic in enumerate(TOPICS)}
    return found, graph.log


@pytest.mark.parametrize("topic", CAMERAS)
def test_silence_is_never_ok_and_the_remedy_is_told(topic, statuses):
    _, level, says = CAMERAS[topic]
    status = statuses[0][topic]
    assert (status["name"], status["level"]) == (f"/saccade_encoder: {topic}", level), status
    assert says in status["message"]
    assert bool(status["finding"]) == (level != "0")
    assert "\n" not in status["message"]


def test_topic_that_nobody_publishes_is_told(statuses):
    assert statuses[0]["/nobody"]["level"] == "1"
    assert "there is no image on /nobody" in statuses[0]["/nobody"]["message"]


def test_several_publishers_are_named(statuses):
    status = statuses[0]["/two_publishers"]
    assert (status["level"], status["finding"]) == ("1", "several_publishers"), status
    assert set(status["publishers"].split(", ")) == {"/test_client", "/second_camera"}


def test_log_says_once_what_diagnostics_say(statuses):
    lines = [line for line in statuses[1].splitlines() if "/zero: " in line]
    assert sum("header.stamp" in line for line in lines) == 1


def test_rates_and_ages_are_told_by_the_names_that_monitors_read(statuses):
    status = statuses[0]["/good"]
    assert 1 < float(status["frame_rate_node"]) <= 10.5
    assert float(status["frame_rate_msg"]) == pytest.approx(25, rel=0.02)
    assert status["current_delay_from_realtime_ms"] == "N/A", "stamps of 1970"
    assert float(status["image_age_s"]) < 1.5
    assert float(status["embedding_age_s"]) < 3.0
    assert statuses[0]["/nobody"]["image_age_s"] == "N/A"


# The encoder's own state, with a worker here


class Watched:
    """One stream with its worker and its monitor; `emit` is called with each tubelet."""

    def __init__(self, ending: ExitStack, emit=lambda *_: None, **node) -> None:
        context = Context()
        rclpy.init(context=context, domain_id=next_domain())
        ending.callback(rclpy.shutdown, context=context)
        self.node = Node("encoder", context=context, namespace="/robot_7")
        ending.callback(self.node.destroy_node)
        config = replace(tiny_config(), node=NodeConfig(**node))
        self.stream, self.told = Pipeline(config).open_stream("/cam"), []
        self.worker = EncodeWorker([self.stream], emit, lambda *_: None)
        self.topic = ImageTopic(self.node, "/cam", self.stream.ledger, lambda message: None)
        self.worker.resume()
        self.monitor = StreamMonitor(self.stream, self.topic, self.worker, config, self.told.append)
        self._frames = frames_of([SCENE] * 1000)

    def offer(self, count: int, pause_s: float = 0.0) -> None:
        for _ in range(count):
            self.topic.received_s = time.monotonic()
            self.worker.offer(self.stream, next(self._frames))
            time.sleep(pause_s)

    def status(self, active: bool = True) -> DiagnosticStatus:
        return self.monitor.status("/robot_7/encoder", "id", active, time.time_ns())

    def wait_for(self, says: str) -> DiagnosticStatus:
        deadline_s = time.monotonic() + 20
        while says not in (status := self.status()).message:
            assert time.monotonic() < deadline_s, status
            time.sleep(0.05)
        return status


@pytest.fixture
def watched():
    with ExitStack() as ending:
        yield lambda *arguments, **node: Watched(ending, *arguments, **node)


def test_hang_is_a_warning_when_nothing_comes_out_and_an_error_beyond_the_limit(watched):
    release = Event()
    made = watched(lambda *_: release.wait(30), silence_s=1.0, max_latency_s=3.0)
    made.offer(8, pause_s=0.2)
    assert made.wait_for("images come, and no embedding for").level == WARN
    made.offer(2)
    assert made.wait_for("longer than node.max_latency_s (3 s)").level == ERROR
    release.set()
    made.worker.close()


def test_dead_worker_is_an_error(watched):
    made = watched()
    made.worker.close()
    assert made.status().level == ERROR
    assert "the encoder is dead" in made.status().message


def test_failure_of_the_encoder_is_an_error_that_says_which(watched):
    def fail(*_):
        raise ArithmeticError("NaN in the embedding")

    made = watched(fail)
    made.offer(2)
    assert made.wait_for("ArithmeticError: NaN in the embedding").level == ERROR
    made.worker.close()


def test_overload_is_a_warning_with_its_share(watched):
    made = watched(lambda *_: time.sleep(0.2))
    made.offer(30, pause_s=0.02)
    status = made.wait_for("of 30 sampled images came faster than they were encoded")
    assert status.level == WARN
    assert {pair.key: pair.value for pair in status.values}["finding"] == "overflow"
    made.status()
    assert len(made.told) == 1, "said once, however often it is asked"
    made.worker.close()


def test_name_is_the_nodes_in_full(watched):
    """Two encoders on one camera are two."""
    made = watched()
    assert made.status().name == "/robot_7/encoder: /cam"
    made.worker.close()


def test_inactive_node_is_ok(watched):
    made = watched(silence_s=0.1)
    made.worker.pause()
    time.sleep(0.3)
    status = made.status(active=False)
    assert (status.level, status.message) == (OK, "inactive")
    made.worker.close()
