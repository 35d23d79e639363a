"""A folder of pictures becomes a stream of them, by the times in their names or at a given rate, or an error."""

import cv2
import numpy as np
import pytest
from recorded import TYPES, picture

from saccade_ros.recordings import open_source
from saccade_ros.recordings.source import COMPRESSED, SourceError

S = 10**9


def write_pictures(folder, names):
    folder.mkdir()
    for index, name in enumerate(names):
        cv2.imwrite(str(folder / name), picture(index))
    return folder


NAMES = {
    "seconds": (["1305031102.175304.png", "1305031102.211214.png"], [1305031102175304000, 1305031102211214000]),
    "nanoseconds": (["1403636579763555584.png", "1403636579813555456.png"], [1403636579763555584, 1403636579813555456]),
    "microseconds": (["1403636579763555.jpg", "1403636579813555.jpg"], [1403636579763555000, 1403636579813555000]),
    "milliseconds": (["1403636579763.JPEG", "1403636579813.JPEG"], [1403636579763000000, 1403636579813000000]),
    "fractions of other lengths": (["9.5000.png", "10.250.png"], [9_500_000_000, 10_250_000_000]),
}


@pytest.mark.parametrize(("names", "stamps_ns"), NAMES.values(), ids=NAMES)
def test_times_are_those_in_the_names(tmp_path, names, stamps_ns):
    with open_source(write_pictures(tmp_path / "pictures", reversed(names))) as source:
        assert [image.stamp_ns for image in source] == stamps_ns
        assert source.duration_s == (stamps_ns[1] - stamps_ns[0]) / S


def test_a_rate_orders_by_the_numbers_in_the_names(tmp_path):
    folder = write_pictures(tmp_path / "pictures", ["frame_10.png", "frame_9.png", "frame_11.png"])
    with open_source(folder, picture_hz=20.0) as source:
        images = list(source)
    assert [image.stamp_ns for image in images] == [0, S // 20, S // 10]
    files = ("frame_9.png", "frame_10.png", "frame_11.png")
    assert [image.image.data.tobytes() for image in images] == [(folder / name).read_bytes() for name in files]


def test_messages_are_what_ros_2_sends(tmp_path):
    with open_source(write_pictures(tmp_path / "pictures", ["0001.png", "0002.png"]), picture_hz=2.0) as source:
        second = list(source)[1]
    message = TYPES.deserialize_cdr(second.cdr, COMPRESSED)
    assert (message.header.stamp.nanosec, message.format) == (S // 2, "png")
    assert np.array_equal(cv2.imdecode(message.data, cv2.IMREAD_COLOR), picture(1))


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["0001.png"], "0001.png, whose name is no time: give --picture-hz"),
        (["0000000000000000001.png"], "whose name is no time"),  # a frame's number, not the year 1970
        (["1.png", "2.bmp"], "neither JPEG nor PNG, such as 2.bmp"),
        (["1305031102.175.png", "1305031102.1750.png"], "two pictures of one time"),
    ],
)
def test_folder_whose_times_cannot_be_known_is_refused(tmp_path, names, why):
    with pytest.raises(SourceError, match=why):
        open_source(write_pictures(tmp_path / "pictures", names))


def test_an_empty_picture_is_refused(tmp_path):
    folder = write_pictures(tmp_path / "pictures", ["1.png", "2.png"])
    (folder / "2.png").write_bytes(b"")
    with open_source(folder, picture_hz=1.0) as source, pytest.raises(SourceError, match=r"2\.png is empty"):
        list(source)
