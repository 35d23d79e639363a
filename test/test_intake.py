"""The two pictures of a tubelet are decoded at once, and fail as if they were decoded in turn."""

import threading
from dataclasses import dataclass
from typing import Any

import pytest

from saccade_ros.config import BackendConfig, Config
from saccade_ros.frames import Frame, Tubelet
from saccade_ros.intake import Intake
from saccade_ros.vision.images import Convert, MalformedImage, convert_with_rosbags
from saccade_ros.vision.target import WHOLE


@dataclass(frozen=True)
class Raw:
    """sensor_msgs/Image of one pixel."""

    data: bytes
    height: int = 1
    width: int = 1
    encoding: str = "rgb8"
    is_bigendian: int = 0
    step: int = 3


def decode_pair(config: Config, older: Any, newer: Any, convert: Convert = convert_with_rosbags) -> list[list[int]]:
    tubelet = Tubelet(Frame(older, 0), Frame(newer, 1), 0, 0, (1, 1))
    return [picture[0, 0].tolist() for picture in Intake(config, convert).decode_pair(tubelet, WHOLE)]


def test_both_are_decoded_at_once():
    both = threading.Barrier(2, timeout=10)

    def convert(message: Any, encoding: str) -> Any:
        both.wait()
        return convert_with_rosbags(message, encoding)

    assert decode_pair(Config(), Raw(b"\1\2\3"), Raw(b"\4\5\6"), convert) == [[1, 2, 3], [4, 5, 6]]


def test_with_one_thread_they_take_turns():
    threads = []

    def convert(message: Any, encoding: str) -> Any:
        threads.append(threading.current_thread())
        return convert_with_rosbags(message, encoding)

    config = Config(backend=BackendConfig(threads=1))
    assert decode_pair(config, Raw(b"\1\2\3"), Raw(b"\4\5\6"), convert) == [[1, 2, 3], [4, 5, 6]]
    assert threads == [threading.current_thread()] * 2


@pytest.mark.parametrize("threads", [0, 1])
@pytest.mark.parametrize(
    ("older", "newer", "held"), [(b"\1", b"\1\2", 1), (b"\1", b"\1\2\3", 1), (b"\1\2\3", b"\1\2", 2)]
)
def test_the_older_ones_failure_comes_first(threads, older, newer, held):
    with pytest.raises(MalformedImage, match=f"data holds {held} bytes"):
        decode_pair(Config(backend=BackendConfig(threads=threads)), Raw(older), Raw(newer))


@pytest.mark.parametrize("failure", [SystemExit, MemoryError, RuntimeError])
def test_whatever_is_raised_reaches_the_caller(failure):
    def convert(message: Any, encoding: str) -> Any:
        if message.data[0] == 1:
            raise failure("as asked")
        return convert_with_rosbags(message, encoding)

    with pytest.raises(failure, match="as asked"):
        decode_pair(Config(), Raw(b"\1\2\3"), Raw(b"\4\5\6"), convert)
