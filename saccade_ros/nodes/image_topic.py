"""A camera's image topic: the type of its messages, its publishers, and the images lost on the way, from the graph."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rclpy.event_handler import QoSMessageLostInfo, SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CompressedImage, Image

from saccade_ros.config import ConfigError
from saccade_ros.recordings.source import COMPRESSED, IMAGE
from saccade_ros.verdict import Sender
from saccade_ros.vision.ledger import FrameLedger

CLASSES = {IMAGE: Image, COMPRESSED: CompressedImage}


def type_by_name(topic: str) -> str:
    """Guess the type of a topic that nobody publishes yet."""
    return COMPRESSED if topic.endswith("/compressed") else IMAGE


class ImageTopic:
    """Subscription to one camera. `follow` keeps it to the type that is published; call it once a second.

    Raises:
        ConfigError: it cannot be subscribed to.

    Attributes:
        type: of the messages subscribed to.
        senders: publishers of the topic.
        received_s: when the newest image came, on the monotonic clock; 0 before the first.
        stamp_ns: of that image.
    """

    def __init__(self, node: Node, name: str, ledger: FrameLedger, on_image: Callable[[Any], None]) -> None:
        self._node, self._name, self._on_image = node, name, on_image
        self._losses = LossCounter(ledger)
        self._subscription: Subscription | None = None
        self.type = ""
        self.senders: tuple[Sender, ...] = ()
        self.received_s, self.stamp_ns = 0.0, 0
        self._subscribe(self._choose_type(self._publishers()))
        self.follow()

    def follow(self) -> None:
        """Read the graph: subscribe anew if images of another type are published, and none of the present one."""
        publishers = self._publishers()
        wanted = self._choose_type(publishers)
        if wanted != self.type:
            with suppress(ConfigError):  # it is tried again, and the verdict names the types
                self._subscribe(wanted)
        self._losses.settle(len(self.senders) <= 1 and len(publishers) <= 1)
        self.senders = tuple(map(self._describe, publishers))

    def close(self) -> None:
        """End the subscription."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def _publishers(self) -> list[TopicEndpointInfo]:
        return list(self._node.get_publishers_info_by_topic(self._name))

    def _choose_type(self, publishers: list[TopicEndpointInfo]) -> str:
        """Choose the type subscribed to while it is published, else the one that is; by the name before any is."""
        published = {publisher.topic_type for publisher in publishers}
        by_name = type_by_name(self._name)
        candidates = [kind for kind in (self.type, by_name, IMAGE, COMPRESSED) if kind in published]
        return candidates[0] if candidates else self.type or by_name

    def _subscribe(self, kind: str) -> None:
        self.close()  # a participant cannot have a topic with two types
        try:
            self._subscription = self._node.create_subscription(
                CLASSES[kind],
                self._name,
                self._on_message,
                # A profile of its own: rclpy writes the overrides of one topic into the profile that it is given.
                QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
                event_callbacks=SubscriptionEventCallbacks(message_lost=self._on_lost),
            )
        except Exception as refused:  # rclpy raises a different type for each thing that can be wrong
            raise ConfigError(
                f"{self._name} cannot be subscribed to as {kind} ({refused}): correct qos_overrides.{self._name}."
                "subscription, and let no output have the topic's name"
            ) from refused
        self.type = kind
        self._losses.begin()

    def _on_message(self, message: Any, info: dict[str, Any]) -> None:
        self._losses.receive(info.get("publication_sequence_number"))
        stamp = message.header.stamp
        self.received_s, self.stamp_ns = time.monotonic(), stamp.sec * 10**9 + stamp.nanosec
        self._on_image(message)

    def _on_lost(self, lost: QoSMessageLostInfo) -> None:
        self._losses.report(lost.total_count_change)

    def _describe(self, publisher: TopicEndpointInfo) -> Sender:
        name = f"{publisher.node_namespace.rstrip('/')}/{publisher.node_name}"
        name = "a node of unknown name" if "_UNKNOWN_" in name else name  # not yet discovered, or no ROS node
        return Sender(name, publisher.topic_type, self._find_mismatch(publisher))

    def _find_mismatch(self, publisher: TopicEndpointInfo) -> str:
        """Say why the publisher's QoS does not fit; empty if it does."""
        if self._subscription is None:
            return ""
        fit, reason = qos_check_compatible(publisher.qos_profile, self._subscription.qos_profile)
        return str(reason).removeprefix("ERROR: ").rstrip("; ") if fit == QoSCompatibility.ERROR else ""


class LossCounter:
    """Images that a publisher sent and the node never received.

    Two witnesses count the same losses, and each misses some: gaps in the publisher's numbers, which also tell of what
    overflowed a queue or broke its serialization, and the middleware's reports. The larger count is taken.
    """

    ABSURD = 100_000  # in one report or gap: at 1000 Hz, more than a minute of images

    def __init__(self, ledger: FrameLedger) -> None:
        self._ledger = ledger
        self._by_gaps = self._by_reports = self._unsettled = 0
        self._newest: int | None = None

    def begin(self) -> None:
        """Start with a new subscription: the next image's number is the first."""
        self._newest, self._unsettled = None, 0

    def receive(self, number: int | None) -> None:
        """Note the number that the publisher gave an image; None if the middleware does not tell."""
        if number is not None and self._newest is not None:
            self._unsettled += _plausible(number - self._newest - 1)
        self._newest = number

    def report(self, lost: int) -> None:
        """Note that the middleware reports images lost; what cannot be is passed over."""
        self._by_reports += _plausible(lost)
        self._write()

    def settle(self, one_publisher: bool) -> None:
        """Count the gaps since last time, if one publisher alone gave the numbers: those of two are no sequence."""
        self._by_gaps += self._unsettled if one_publisher else 0
        self._unsettled = 0
        self._write()

    def _write(self) -> None:
        self._ledger.lost_in_transport = max(self._by_gaps, self._by_reports)


def _plausible(lost: int) -> int:
    """The count, or 0 if it is negative or absurd: a publisher that starts again begins with 1."""
    return lost if 0 < lost < LossCounter.ABSURD else 0
