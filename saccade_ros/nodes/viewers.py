"""Pictures of novelty and plan, for viewers such as rviz; where nobody subscribes they cost nothing."""

from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import qos_profile_sensor_data
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image

from saccade_ros.frames import EmbeddingResult, Tubelet
from saccade_ros.nodes.conversions import computed_map_message, novelty_map_message, overlay_message
from saccade_ros.pipeline import Stream


class ViewerTopics:
    """Publishers of ~/novelty_map, ~/computed_map and ~/debug/image."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._novelty, self._computed, self._overlay = (
            self._create(topic) for topic in ("~/novelty_map", "~/computed_map", "~/debug/image")
        )

    def _create(self, topic: str) -> Any:
        """Publish as sensors do unless qos_overrides say otherwise: a viewer may ask for reliable pictures."""
        overrides = QoSOverridingOptions.with_default_policies()
        return self._node.create_lifecycle_publisher(
            Image, topic, qos_profile_sensor_data, qos_overriding_options=overrides
        )

    def publish(self, stream: Stream, tubelet: Tubelet, result: EmbeddingResult, event_change: float) -> None:
        """Publish what somebody subscribes to.

        Args:
            event_change: gate.event_change, which the overlay's colours are relative to.
        """
        header = tubelet.newer.image.header
        if result.patch_novelty is not None and self._novelty.get_subscription_count():
            self._novelty.publish(novelty_map_message(result, header))
        if self._computed.get_subscription_count():
            self._computed.publish(computed_map_message(result, header))
        if self._overlay.get_subscription_count():
            picture = stream.intake.decode(tubelet.newer)
            self._overlay.publish(overlay_message(result, picture, header, event_change))

    def close(self) -> None:
        """Destroy the publishers."""
        for publisher in (self._novelty, self._computed, self._overlay):
            self._node.destroy_lifecycle_publisher(publisher)
