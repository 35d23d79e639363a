"""Topic names that ROS 2 allows: a recording's own may be none."""

import re

from rclpy.exceptions import InvalidTopicNameException
from rclpy.validate_full_topic_name import validate_full_topic_name


def playable_topic(topic: str) -> str:
    """Find the topic that a recorded one is played on: itself, or the nearest name that ROS 2 allows.

    Other tools and ROS 1 allow /cam-left/image, /1/image, camera 1 or //image.

    Raises:
        ValueError: no name is near it.
    """
    tokens = [re.sub("[^A-Za-z0-9_]", "_", token) for token in topic.split("/") if token]
    name = "/" + "/".join(f"_{token}" if token[0].isdigit() else token for token in tokens)
    try:
        validate_full_topic_name(name)
    except InvalidTopicNameException as invalid:
        reason = " ".join(str(invalid).split())
        raise ValueError(
            f"images recorded on {topic!r} cannot be played over ROS 2 ({reason}): rename the topic in the bag, or use "
            "`saccade replay`, without ROS"
        ) from invalid
    return name
