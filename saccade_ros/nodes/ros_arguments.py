"""ROS arguments of a command line: what ROS refuses of them, in one line, where rclpy would show a traceback."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from rclpy.exceptions import NameValidationException

from saccade_ros.config import ConfigError


@contextmanager
def ros_refusals() -> Iterator[None]:
    """Let a block start ROS or make a node, and say what ROS refuses.

    Raises:
        ConfigError: it names the bad argument, or the bad setting of the environment.
    """
    try:
        yield
    except (RuntimeError, NameValidationException) as refused:  # RCLError and its kin are RuntimeErrors
        text = re.sub(r", at \S+:\d+", "", " ".join(str(refused).split()))  # without places in rcl's source
        raise ConfigError(
            f"ROS refuses to start: {text}: correct what follows --ros-args, or the ROS variables of the environment"
        ) from None
