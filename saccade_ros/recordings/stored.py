"""Messages as the files of a bag store them: the base of the readers of MCAP, SQLite and ROS 1."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

CDR, ROS1 = "cdr", "ros1"  # how ROS 2 and ROS 1 store messages


@dataclass(frozen=True, slots=True)
class Channel:
    """Connection of a topic in a file: one or several publishers stored it.

    Attributes:
        topic: its name.
        msgtype: in the form of ROS 2, package/msg/Type; of messages that are not of ROS, their schema's name.
        encoding: of the messages: cdr (ROS 2), ros1, protobuf, json, ...
        count: of the messages.
        publishers: that wrote them, as far as the file tells; at least 1.
        reliability: that they offered: reliable or best_effort; "" where the file does not tell.
    """

    topic: str
    msgtype: str
    encoding: str
    count: int
    publishers: int = 1
    reliability: str = ""


class StoredMessage(NamedTuple):
    """Message as it lies in the file, and when the recorder received it."""

    time_ns: int
    msgtype: str
    data: bytes


class BagFile(ABC):
    """File of a bag, or all of them. Errors are those of the libraries: whoever reads it gives them their words.

    Attributes:
        channels: one per topic, type and encoding at least.
        first_ns, last_ns: times of the first and the last message of any topic; 0 without any.
        encoding: of the messages that can be played from it.
    """

    channels: Sequence[Channel]
    first_ns: int
    last_ns: int
    encoding: str = CDR

    @abstractmethod
    def messages(self, topic: str) -> Iterator[StoredMessage]:
        """Read a topic's messages in the order of their times."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""


class BagError(ValueError):
    """Fault of a bag's file whose cause is known. The message says it, and the remedy of that format."""


def ros2_type(name: str) -> str:
    """Write a message type as ROS 2 does: ROS 1, and some that write MCAP, say sensor_msgs/Image."""
    package, slash, kind = name.partition("/")
    return f"{package}/msg/{kind}" if slash and "/" not in kind else name


def recorded_reliability(offered_qos_profiles: str) -> str:
    """Read the reliability off a topic's QoS profiles, in words or in numbers as older recorders wrote it.

    Where publishers differ, it is reliable: that serves every subscription.
    """
    found = re.findall(r"\breliability: *(\w+)", offered_qos_profiles)
    if {"reliable", "1"} & set(found):
        return "reliable"
    return "best_effort" if {"best_effort", "2"} & set(found) else ""


def count_publishers(offered_qos_profiles: str) -> int:
    """Count a topic's publishers by their QoS profiles, of which rosbag2 notes one each: items of a list in YAML."""
    return max(1, len(re.findall("^- ", offered_qos_profiles, re.MULTILINE)))
