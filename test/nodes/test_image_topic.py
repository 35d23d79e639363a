"""An image topic on a real graph: its type is the publisher's, and what does not arrive is counted."""

import time
from contextlib import ExitStack

import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2; `make test` brings it")

from graph import next_domain  # noqa: E402
from rclpy.context import Context  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from rclpy.serialization import serialize_message  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from saccade_ros.config import ConfigError  # noqa: E402
from saccade_ros.nodes.image_topic import ImageTopic, LossCounter  # noqa: E402
from saccade_ros.recordings.source import COMPRESSED, IMAGE  # noqa: E402
from saccade_ros.verdict import Sender  # noqa: E402
from saccade_ros.vision.ledger import FrameLedger  # noqa: E402

pytestmark = pytest.mark.ros


class Bench:
    """A camera's node and the encoder's, each with a context of its own, as if in two processes."""

    def __init__(self, ending: ExitStack, arguments: list[str]) -> None:
        domain = next_domain()
        self.camera, self.encoder = (self._node(name, domain, arguments, ending) for name in ("camera", "encoder"))
        self.executor = SingleThreadedExecutor(context=self.encoder.context)
        self.executor.add_node(self.encoder)
        self.ledger, self.received = FrameLedger(), []

    @staticmethod
    def _node(name: str, domain: int, arguments: list[str], ending: ExitStack) -> Node:
        context = Context()
        rclpy.init(context=context, domain_id=domain, args=arguments)
        node = Node(name, context=context)
        ending.callback(rclpy.shutdown, context=context)
        ending.callback(node.destroy_node)
        return node

    def topic(self, name: str = "/cam") -> ImageTopic:
        return ImageTopic(self.encoder, name, self.ledger, self.received.append)

    def publisher(self, kind: type, topic: str = "/cam", reliability=ReliabilityPolicy.RELIABLE):
        return self.camera.create_publisher(kind, topic, QoSProfile(depth=100, reliability=reliability))

    def follow_until(self, topic: ImageTopic, what) -> None:
        deadline_s = time.monotonic() + 20
        while not what():
            assert time.monotonic() < deadline_s, (topic.type, topic.senders, self.ledger.accounts())
            self.executor.spin_once(timeout_sec=0.05)
            topic.follow()

    def connect(self, topic: ImageTopic, publisher) -> None:
        self.follow_until(topic, lambda: topic.senders and publisher.get_subscription_count())

    def deliver(self, topic: ImageTopic, publisher, message) -> None:
        """Publish one image that must arrive."""
        before = len(self.received)
        publisher.publish(message)
        self.follow_until(topic, lambda: len(self.received) > before)


@pytest.fixture
def bench():
    with ExitStack() as ending:
        yield lambda arguments=None: Bench(ending, arguments or [])


@pytest.mark.parametrize(("kind", "name"), [(CompressedImage, "/cam"), (Image, "/cam/compressed"), (Image, "/cam")])
def test_type_is_the_publishers_whatever_the_topic_is_called(bench, kind, name):
    made = bench()
    publisher, topic = made.publisher(kind, name), made.topic(name)
    made.connect(topic, publisher)
    assert topic.type == f"sensor_msgs/msg/{kind.__name__}"
    made.deliver(topic, publisher, kind())
    assert isinstance(made.received[0], kind)
    made.follow_until(topic, lambda: topic.senders == (Sender("/camera", topic.type),))


def test_publisher_that_comes_later_with_another_type_is_followed(bench):
    made = bench()
    topic = made.topic()
    assert topic.type == IMAGE
    first = made.publisher(CompressedImage)
    made.connect(topic, first)
    assert topic.type == COMPRESSED
    made.camera.destroy_publisher(first)
    made.follow_until(topic, lambda: not topic.senders)
    assert topic.type == COMPRESSED, "kept while there is nobody"
    second = made.publisher(Image)
    made.connect(topic, second)
    made.deliver(topic, second, Image())
    assert topic.type == IMAGE


def test_what_is_no_image_is_not_subscribed_to(bench):
    made = bench()
    made.publisher(String)
    topic = made.topic()
    made.follow_until(topic, lambda: topic.senders == (Sender("/camera", "std_msgs/msg/String"),))
    assert topic.type == IMAGE


def test_qos_override_of_one_topic_is_its_own_and_a_misfit_is_told(bench):
    made = bench(["--ros-args", "-p", "qos_overrides./a.subscription.reliability:=reliable"])
    topics = [made.topic("/a"), made.topic("/b")]
    for topic, name in zip(topics, ("/a", "/b"), strict=True):
        made.publisher(Image, name, ReliabilityPolicy.BEST_EFFORT)
        made.follow_until(topic, lambda topic=topic: topic.senders)
    assert [bool(topic.senders[0].mismatch) for topic in topics] == [True, False]
    assert "reliable subscription" in topics[0].senders[0].mismatch


@pytest.mark.parametrize("policy", ["reliability:=sometimes", "depth:=many", "depth:=-3"])
def test_override_that_cannot_be_is_refused_by_name(bench, policy):
    made = bench(["--ros-args", "-p", f"qos_overrides./cam.subscription.{policy}"])
    with pytest.raises(ConfigError, match=r"/cam cannot be subscribed to .*correct qos_overrides\./cam\.sub"):
        made.topic()


def test_topic_that_the_node_itself_publishes_is_refused(bench):
    made = bench()
    made.encoder.create_publisher(String, "/cam", 1)
    with pytest.raises(ConfigError, match="let no output have the topic's name"):
        made.topic()


@pytest.mark.parametrize("reliability", ["reliable", "best_effort"])
def test_burst_that_overflows_the_queue_is_counted_as_lost(bench, reliability):
    """Fast DDS reports nothing of it; the publisher's numbers do."""
    made = bench(["--ros-args", "-p", f"qos_overrides./cam.subscription.reliability:={reliability}"])
    publisher, topic = made.publisher(Image), made.topic()
    made.connect(topic, publisher)
    made.deliver(topic, publisher, Image())
    for _ in range(30):
        publisher.publish(Image())
    made.follow_until(topic, lambda: len(made.received) >= 6)
    made.deliver(topic, publisher, Image())
    made.follow_until(topic, lambda: made.ledger.lost_in_transport == 32 - len(made.received))
    assert made.ledger.lost_in_transport > 0


@pytest.mark.parametrize("length", [0, 4, 8, 30])
def test_message_that_breaks_its_serialization_is_counted_as_lost(bench, length):
    made = bench()
    publisher, topic = made.publisher(Image), made.topic()
    made.connect(topic, publisher)
    made.deliver(topic, publisher, Image())
    publisher.publish(serialize_message(Image(encoding="rgb8", data=bytes(48)))[:length])
    made.deliver(topic, publisher, Image())
    assert (len(made.received), made.ledger.lost_in_transport) == (2, 1)


def counted(*events) -> int:
    """Losses after images' numbers, reports (as ("lost", n)) and looks at the graph (as True: one publisher)."""
    ledger = FrameLedger()
    losses = LossCounter(ledger)
    for event in events:
        if isinstance(event, bool):
            losses.settle(event)
        elif isinstance(event, tuple):
            losses.report(event[1])
        else:
            losses.receive(event)
    return ledger.lost_in_transport


@pytest.mark.parametrize(
    ("events", "lost"),
    [
        ((7, 8, 9, True), 0),
        ((7, 10, True), 2),
        ((900, 1, 2, True), 0),  # a publisher that starts again
        ((1, 500, 2, 501, 3, 502, False), 0),  # two publishers
        ((1, 500, 2, False, 3, 5, True), 1),
        ((None, None, ("lost", 3), True), 3),  # a middleware without numbers
        ((1, 4, ("lost", 2), True), 2),  # both tell of the same two
        ((("lost", -5), True), 0),
        ((("lost", 2**31 - 1), True), 0),
        ((("lost", -(2**31)), ("lost", 4)), 4),
        ((1, 2**40, True), 0),
    ],
)
def test_losses_are_what_can_be_true_of_the_numbers_and_reports(events, lost):
    assert counted(*events) == lost
