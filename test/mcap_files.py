"""MCAP files as other writers than rosbag2 make them: each part that the format leaves open is a choice here."""

import struct
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import lz4.frame
from recorded import TYPES, image_of

from saccade_ros.recordings.source import IMAGE
from saccade_ros.recordings.zstd import zstd

START = b"\x89MCAP0\r\n"
COMPRESS = {"": bytes, "zstd": zstd.compress, "lz4": lz4.frame.compress}


@dataclass
class Channel:
    """A channel with its schema, and its messages as (log time, data)."""

    topic: str
    msgtype: str
    encoding: str
    messages: list[tuple[int, bytes]]
    qos: str = ""


def images(topic="/camera", times=range(100, 106), qos=""):
    """A channel of ROS 2 images whose pixels and stamps are those of recorded.image_of."""
    stored = [
        (time, bytes(TYPES.serialize_cdr(image_of(TYPES, IMAGE, index), IMAGE))) for index, time in enumerate(times)
    ]
    return Channel(topic, IMAGE, "cdr", stored, qos)


def write_mcap(
    path: Path, channels, *, chunk=3, compression="", checksum=True, summary="csS", profile="ros2", uncounted=0
):
    """Write the channels' messages one after the other.

    The statistics count `uncounted` messages of each channel too many.
    `chunk` messages go into a chunk, none at 0. The summary holds schemas (s), channels (c) and statistics (S).
    """
    out = bytearray(START + _record(1, _text(profile) + _text("test")))
    heads = _heads(channels)
    messages = [
        (time, _record(5, struct.pack("<HIQQ", number, 0, time, time) + data))
        for number, channel in enumerate(channels, 1)
        for time, data in channel.messages
    ]
    if not chunk:
        out += heads + b"".join(record for _, record in messages)
    for at in range(0, len(messages) if chunk else 0, chunk or 1):
        part = messages[at : at + chunk]
        content = (b"" if at else heads) + b"".join(record for _, record in part)
        times = [time for time, _ in part]
        head = struct.pack("<QQQI", min(times), max(times), len(content), zlib.crc32(content) if checksum else 0)
        packed = COMPRESS[compression](content)
        out += _record(6, head + _text(compression) + struct.pack("<Q", len(packed)) + packed)
    out += _record(0x0F, bytes(4))
    summary_at = len(out) if summary else 0
    out += _heads(channels, summary) + (_statistics(channels, uncounted) if "S" in summary else b"")
    path.write_bytes(out + _record(2, struct.pack("<QQI", summary_at, 0, 0)) + START)
    return path


def _heads(channels, parts="sc"):
    heads = b""
    for number, channel in enumerate(channels, 1):
        if "s" in parts:
            heads += _record(3, struct.pack("<H", number) + _text(channel.msgtype) + _text("ros2msg") + _text(""))
        if "c" in parts:
            metadata = _text("offered_qos_profiles") + _text(channel.qos) if channel.qos else b""
            head = struct.pack("<HH", number, number) + _text(channel.topic) + _text(channel.encoding)
            heads += _record(4, head + struct.pack("<I", len(metadata)) + metadata)
    return heads


def _statistics(channels, uncounted):
    counts = Counter({number: len(channel.messages) + uncounted for number, channel in enumerate(channels, 1)})
    listed = b"".join(struct.pack("<HQ", *item) for item in counts.items())
    head = struct.pack("<QHIIIIQQ", counts.total(), len(channels), len(channels), 0, 0, 0, 0, 0)
    return _record(0x0B, head + struct.pack("<I", len(listed)) + listed)


def _record(opcode, content):
    return struct.pack("<BQ", opcode, len(content)) + content


def _text(text):
    return struct.pack("<I", len(text.encode())) + text.encode()
