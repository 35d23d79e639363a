"""Images serialized as ROS 2 sends them: of compressed pictures and of ROS 1; and copied with another stamp."""

import functools
import struct
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt
from rosbags.typesys import Stores, get_typestore

from saccade_ros.recordings.source import COMPRESSED

_STAMP_AT = 4  # of a message that begins with a header, behind the four bytes that name the encoding
_STAMP = {0: struct.Struct(">iI"), 1: struct.Struct("<iI")}  # by the encoding's lowest bit: big, little endian


@functools.cache
def ros2_types() -> Any:
    """Message types that all distributions of ROS 2 share."""
    return get_typestore(Stores.ROS2_JAZZY)


def compressed_message(stamp_ns: int, frame_id: str, encoding: str, data: npt.NDArray[np.uint8]) -> Any:
    """Make a CompressedImage.

    Args:
        encoding: jpeg or png.
        data: the compressed file, (bytes,).
    """
    return ros2_types().types[COMPRESSED](header=_header(stamp_ns, frame_id), format=encoding, data=data)


def serialize(message: Any) -> bytes:
    """Serialize a message of ROS 2."""
    return bytes(ros2_types().serialize_cdr(message, message.__msgtype__))


def serialize_ros1(message: Any) -> bytes:
    """Serialize an image of ROS 1 as ROS 2 does, where its header has no sequence number."""
    stamp, values = message.header.stamp, {item.name: getattr(message, item.name) for item in fields(message)}
    values["header"] = _header(stamp.sec * 10**9 + stamp.nanosec, message.header.frame_id)
    return serialize(ros2_types().types[message.__msgtype__](**values))


def restamped(cdr: bytes, stamp_ns: int) -> bytes:
    """Copy a serialized message whose first field is a header, with another stamp in it."""
    stamp = _STAMP[cdr[1] & 1].pack(*divmod(stamp_ns, 10**9))
    return b"".join((cdr[:_STAMP_AT], stamp, memoryview(cdr)[_STAMP_AT + len(stamp) :]))


def stamp_of(cdr: bytes) -> int:
    """Read the stamp of such a message, in nanoseconds."""
    sec, nanosec = _STAMP[cdr[1] & 1].unpack_from(cdr, _STAMP_AT)
    return int(sec) * 10**9 + int(nanosec)


def _header(stamp_ns: int, frame_id: str) -> Any:
    types = ros2_types().types
    sec, nanosec = divmod(stamp_ns, 10**9)
    time = types["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec)
    return types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)
