"""Pictures of novelty and plan reach viewers, whichever reliability they ask for."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2; `make test` brings it")

from graph import Graph
from scenes import textured
from sensor_msgs.msg import Image

pytestmark = pytest.mark.ros
TOPICS = ("novelty_map", "computed_map", "debug/image")


def test_pictures_are_reliable_where_that_is_asked_for():
    """rviz asks for it unless told otherwise; a best effort publisher would send it nothing."""
    names = {topic: f"/saccade_encoder/{topic}" for topic in TOPICS}
    overrides = {f"qos_overrides.{name}.publisher.reliability": "reliable" for name in names.values()}
    with Graph(**overrides) as graph:
        graph.wait_active()
        seen: dict[str, list[Image]] = {topic: [] for topic in TOPICS}
        for topic, name in names.items():
            graph.node.create_subscription(Image, name, seen[topic].append, 10)  # reliable
        graph.spin(1.0)
        graph.show([textured(seed=i // 5) for i in range(10)])
        graph.wait_for(lambda: all(seen.values()), "pictures of each kind")
