"""Subscriber that only counts images: all that a player alone drives, or the witness of what others play."""

import time
from collections.abc import Sequence
from functools import partial

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from saccade_ros.recordings.serialized import stamp_of
from saccade_ros.recordings.source import COMPRESSED
from saccade_ros.replay.played import Played

QUEUE_DEPTH = 1000


class FrameCounter:
    """Subscription to image topics that takes the messages as bytes, and reads nothing of them but the stamp.

    Args:
        topics: pairs of name and message type.
        reliable: whether no image may be lost; only reliable publishers have such subscribers.
    """

    def __init__(self, node: Node, topics: Sequence[tuple[str, str]], reliable: bool) -> None:
        self._node, self._topics = node, [topic for topic, _ in topics]
        self._images: list[tuple[int, int, int, int]] = []
        policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        qos = QoSProfile(depth=QUEUE_DEPTH, reliability=policy)
        self._subscriptions = [
            node.create_subscription(
                CompressedImage if kind == COMPRESSED else Image, topic, partial(self._on_image, place), qos, raw=True
            )
            for place, (topic, kind) in enumerate(topics)
        ]

    @property
    def is_found(self) -> bool:
        """True once each topic has a publisher that this subscriber receives from."""
        return all(subscription.get_publisher_count() for subscription in self._subscriptions)

    @property
    def count(self) -> int:
        """Images received."""
        return len(self._images)

    @property
    def last_s(self) -> float:
        """Time of the newest image on the monotonic clock; 0 before the first."""
        return self._images[-1][3] / 1e9 if self._images else 0.0

    def played(self) -> Played:
        """Describe what was received as what was played: sent when it came, and due then."""
        seconds = (self._images[-1][3] - self._images[0][3]) / 1e9 if self._images else 0.0
        hz = (self.count / len(self._topics) - 1) / seconds if seconds else 0.0
        return Played.read({"topics": self._topics, "images": self._images, "complete": True, "offered_hz": hz})

    def close(self) -> None:
        """End the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _on_image(self, place: int, message: bytes) -> None:
        now_ns = time.monotonic_ns()
        self._images.append((place, stamp_of(message), now_ns, now_ns))
