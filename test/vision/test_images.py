"""Every kind of image has one size and one limit, or a MalformedImage that says what is wrong."""

import re
from array import array
from functools import partial

import numpy as np
import pytest
from image_messages import (
    MAX_PIXELS,
    Compressed,
    Image,
    encoded,
    gradient,
    jpeg_that_claims,
    picture_of,
    png_that_claims,
    refusal,
    with_segment,
)

from saccade_ros.vision.images import check_image, decode_image
from saccade_ros.vision.malformed import CAUSES, MalformedImage

BUFFERS = (bytes, bytearray, memoryview, partial(array, "B"), partial(np.frombuffer, dtype=np.uint8))


def tables_first(jpeg: bytes) -> bytes:
    """The same picture, but with Huffman tables ahead of the frame header."""
    at = jpeg.index(b"\xff\xc4")
    return with_segment(jpeg, 0xC4, jpeg[at + 4 : at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")])


SIZED = {"raw": Image(48, 64, "mono8", 0, 64, bytes(3072)), "png": Compressed(encoded(".png"))}
SIZED |= {"jpeg": Compressed(encoded(".jpg")), "tables first": Compressed(tables_first(encoded(".jpg")))}
SIZED |= {"picture": gradient()}


@pytest.mark.parametrize("message", SIZED.values(), ids=SIZED)
def test_the_limit_is_on_the_exact_number_of_pixels(message):
    assert decode_image(message, 48 * 64).shape == (48, 64, 3)
    with pytest.raises(MalformedImage, match="64 x 48 = 3072 pixels, more than 3071:"):
        check_image(message, 48 * 64 - 1)


@pytest.mark.parametrize("buffer", BUFFERS)
def test_data_may_be_any_buffer(buffer):
    message = Image(data=buffer(bytes([255, 0, 0, 0, 255, 0])))
    assert picture_of(message).tolist() == [[[255, 0, 0], [0, 255, 0]]]
    assert np.array_equal(picture_of(Compressed(buffer(encoded(".png")), "png")), gradient())


def test_rosbags_own_messages_are_understood():
    typesys = pytest.importorskip("rosbags.typesys")
    types = typesys.get_typestore(typesys.Stores.ROS2_JAZZY).types
    stamp = types["builtin_interfaces/msg/Time"](sec=0, nanosec=0)
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="")
    data = np.array([255, 0, 0, 0, 255, 0], np.uint8)
    raw = types["sensor_msgs/msg/Image"](header, 1, 2, "rgb8", 0, 6, data)
    assert picture_of(raw).tolist() == [[[255, 0, 0], [0, 255, 0]]]
    png = types["sensor_msgs/msg/CompressedImage"](header, "png", np.frombuffer(encoded(".png"), np.uint8))
    assert np.array_equal(picture_of(png), gradient())


def test_a_decoded_picture_is_returned_as_it_is():
    picture = np.zeros((6, 8, 3), np.uint8)[::2, ::-1]  # C-contiguous or not
    assert check_image(picture, MAX_PIXELS) == (3, 8)
    assert decode_image(picture, MAX_PIXELS) is picture


MALFORMED = [
    (Image(width=0), "zero_size", "0 x 1 pixels"),
    (Image(height=0), "zero_size", "2 x 0 pixels"),
    (Image(width=2000, height=2000), "too_large", "4000000 pixels, more than 1000000"),
    (Image(width=2**32 - 1, height=2**32 - 1, step=2**32 - 1), "too_large", "vision.max_megapixels"),
    (Image(step=5), "wrong_step", "step is 5, but a row of 2 rgb8 pixels takes 6 bytes"),
    (Image(encoding="rgb16", step=11, data=bytes(99)), "wrong_step", "takes 12 bytes"),
    (Image(640, 480, "rgb8", 0, 10, bytes(640 * 480 * 3)), "wrong_step", "step is 10"),
    (Image(data=bytes(5)), "short_data", "data holds 5 bytes, but 1 rows of rgb8 with step 6 take 6"),
    (Image(data=b""), "short_data", "data holds 0 bytes"),
    (Image(2, 2, "nv12", 0, 2, bytes(5)), "short_data", "take 6"),
    (Image(encoding="rgb9"), "unknown_encoding", "'rgb9' is not supported: publish one of mono8"),
    (Image(encoding="nv24"), "unknown_encoding", "'nv24'"),
    (Image(encoding="16UC1"), "unknown_encoding", "16UC1 is a depth image: subscribe to a colour topic"),
    (Image(encoding="32FC1"), "unknown_encoding", "32FC1 is a depth image: subscribe to a colour topic"),
    (Image(2, 3, "uyvy", 0, 6, bytes(12)), "undecodable", "3 x 2 pixels, but uyvy needs a width divis"),
    (Image(3, 2, "nv21", 0, 2, bytes(12)), "undecodable", "a height divisible by 2"),
    (Image(2, 2, "bayer_rggb8", 0, 2, bytes(4)), "undecodable", "sides of at least 3"),
    (Compressed(b""), "short_data", "data is empty"),
    (Compressed(b"hello, world", "jpeg"), "undecodable", "starts with 68 65 6c 6c 6f 2c 20 77"),
    (Compressed(b"RIFF....WEBP", "webp"), "unknown_encoding", "publish one of the two"),
    (Compressed(b"\0\0\0\1gh", "h264"), "unknown_encoding", "format 'h264'"),
    (Compressed(encoded(".png"), "16UC1; compressedDepth png"), "unknown_encoding", "colour topic"),
    (Compressed(encoded(".png"), "16UC1; png compressed "), "unknown_encoding", "is a depth image"),
    (Compressed(encoded(".png"), "bayer_rggb8; png compressed "), "unknown_encoding", "colour mosaic"),
    (Compressed(encoded(".jpg"), "bayer_gbrg8; jpeg compressed bayer_gbrg8"), "unknown_encoding", "'bayer_gbrg8; jpeg"),
    (Compressed(b"\xff\xd8\xff\xe0" + bytes(99)), "undecodable", "no readable frame header"),
    (Compressed(b"\xff\xd8" + b"\xff\xe0\0\x02" * 99_999), "undecodable", "no readable frame header"),
    (Compressed(b"\x89PNG\r\n\x1a\n" + bytes(99)), "undecodable", "no IHDR chunk"),
    (Compressed(jpeg_that_claims(0, 48)), "zero_size", "0 x 48"),
    (Compressed(png_that_claims(64, 0)), "zero_size", "64 x 0"),
    (np.zeros((0, 640, 3), np.uint8), "zero_size", "picture is uint8 (0, 640, 3): give RGB uint8"),
    (np.zeros((480, 0, 3), np.uint8), "zero_size", "picture is uint8 (480, 0, 3): give RGB uint8"),
    (np.zeros((2000, 2000, 3), np.uint8), "too_large", "the image is 2000 x 2000"),
    (np.zeros((4, 4, 3), np.float32), "unknown_encoding", "picture is float32 (4, 4, 3): give RGB uint8"),
    (np.zeros((4, 4), np.uint8), "unknown_encoding", "(height, width, 3); decode other encodings first"),
    (np.zeros((4, 4, 4), np.uint8), "unknown_encoding", "picture is uint8 (4, 4, 4)"),
    (np.zeros((4, 4, 0), np.uint8), "unknown_encoding", "picture is uint8 (4, 4, 0)"),
    (np.zeros((2, 4, 4, 3), np.uint8), "unknown_encoding", "picture is uint8 (2, 4, 4, 3)"),
    (np.zeros(0, np.float32), "unknown_encoding", "picture is float32 (0,)"),
]


@pytest.mark.parametrize(("message", "cause", "says"), MALFORMED, ids=[says for *_, says in MALFORMED])
def test_a_malformed_image_is_refused_by_name_and_value(message, cause, says):
    error = refusal(message)
    assert error.cause == cause
    assert says in str(error)
    with pytest.raises(MalformedImage, match=re.escape(str(error))):
        check_image(message, MAX_PIXELS)


def test_each_cause_is_tested():
    assert {cause for _, cause, _ in MALFORMED} == set(CAUSES)
