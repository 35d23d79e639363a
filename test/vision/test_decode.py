"""Messages become the right RGB picture, or a MalformedImage that says what is wrong."""

import re
import struct
from array import array
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade_ros.vision.decode import CAUSES, ENCODINGS, MalformedImage, check_image, decode_image

MAX_PIXELS = 1_000_000
RED, GREEN = (255, 0, 0), (0, 255, 0)
BLACK, GREY, WHITE = (0, 0, 0), (51, 51, 51), (255, 255, 255)


@dataclass(frozen=True)
class Image:
    """sensor_msgs/Image."""

    height: int = 1
    width: int = 2
    encoding: str = "rgb8"
    is_bigendian: int = 0
    step: int = 6
    data: Any = bytes(6)


@dataclass(frozen=True)
class Compressed:
    """sensor_msgs/CompressedImage."""

    data: Any = b""
    format: str = "jpeg"


# One row of pixels: the bytes by hand, and what they show. In 16 bits, 0x3333 is 51 and 0xffff is 255; their
# neighbours used here round to the same, but with their two bytes swapped they would not.
ROWS = [
    ("rgb8", bytes([255, 0, 0, 0, 255, 0]), (RED, GREEN)),
    ("bgr8", bytes([0, 0, 255, 0, 255, 0]), (RED, GREEN)),
    ("8UC3", bytes([0, 0, 255, 0, 255, 0]), (RED, GREEN)),
    ("rgba8", bytes([255, 0, 0, 7, 0, 255, 0, 9]), (RED, GREEN)),
    ("bgra8", bytes([0, 0, 255, 7, 0, 255, 0, 9]), (RED, GREEN)),
    ("mono8", bytes([51, 255]), (GREY, WHITE)),
    ("8UC1", bytes([51, 255]), (GREY, WHITE)),
    ("mono16", bytes.fromhex("3433 feff"), (GREY, WHITE)),
    ("rgb16", bytes.fromhex("feff01000100 0100feff0100"), (RED, GREEN)),
    ("bgr16", bytes.fromhex("01000100feff 0100feff0100"), (RED, GREEN)),
    ("rgba16", bytes.fromhex("feff010001000700 0100feff01000900"), (RED, GREEN)),
    ("bgra16", bytes.fromhex("01000100feff0700 0100feff01000900"), (RED, GREEN)),
    # Y 16 is black and Y 235 is white when U and V are 128
    ("uyvy", bytes([128, 16, 128, 235]), (BLACK, WHITE)),
    ("yuv422", bytes([128, 16, 128, 235]), (BLACK, WHITE)),
    ("yuyv", bytes([16, 128, 235, 128]), (BLACK, WHITE)),
    ("yuv422_yuy2", bytes([16, 128, 235, 128]), (BLACK, WHITE)),
]
MOSAICS = ("rggb", "bggr", "gbrg", "grbg")

BUFFERS = (bytes, bytearray, memoryview, partial(array, "B"), partial(np.frombuffer, dtype=np.uint8))


def row_image(encoding: str, row: bytes, padding: int) -> Image:
    """Three times the same row of two pixels."""
    return Image(3, 2, encoding, 0, len(row) + padding, (row + b"\xa5" * padding) * 3)


def yuv(red: int, green: int, blue: int) -> tuple[int, int, int]:
    """BT.601, the 'TV' range: the definition, not OpenCV's fixed-point arithmetic."""
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    u, v = (blue - luma) / 1.772, (red - luma) / 1.402
    return round(16 + luma * 219 / 255), round(128 + u * 224 / 255), round(128 + v * 224 / 255)


def picture_of(message: Any) -> np.ndarray:
    picture = decode_image(message, MAX_PIXELS)
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    return picture


def refusal(message: Any) -> MalformedImage:
    with pytest.raises(MalformedImage) as caught:
        decode_image(message, MAX_PIXELS)
    return caught.value


@pytest.mark.parametrize(("encoding", "row", "shown"), ROWS, ids=[row[0] for row in ROWS])
@pytest.mark.parametrize("padding", [0, 1, 2, 5])
def test_each_encoding_gives_the_colours_its_bytes_stand_for(encoding, row, shown, padding):
    message = row_image(encoding, row, padding)
    check_image(message, MAX_PIXELS)
    assert picture_of(message).tolist() == [[list(pixel) for pixel in shown]] * 3


@pytest.mark.parametrize(("encoding", "row", "shown"), ROWS, ids=[row[0] for row in ROWS])
def test_big_endian_samples_are_read_as_such(encoding, row, shown):
    if encoding.endswith("16"):  # single bytes have no order
        row = np.frombuffer(row, "<u2").astype(">u2").tobytes()
    message = replace(row_image(encoding, row, padding=3), is_bigendian=1)
    assert picture_of(message)[0].tolist() == [list(pixel) for pixel in shown]


@pytest.mark.parametrize("pattern", MOSAICS)
@pytest.mark.parametrize("bits", [8, 16])
def test_each_mosaic_gives_the_colour_it_was_taken_of(pattern, bits):
    colour = {"r": 200, "g": 100, "b": 40}
    cell = np.array([colour[letter] for letter in pattern]).reshape(2, 2)
    samples = np.tile(cell, (2, 3)).astype("u1") if bits == 8 else np.tile(cell * 257, (2, 3)).astype("<u2")
    message = Image(4, 6, f"bayer_{pattern}{bits}", 0, 6 * bits // 8, samples.tobytes())
    assert picture_of(message).tolist() == [[list(colour.values())] * 6] * 4


@pytest.mark.parametrize("encoding", ["uyvy", "yuyv", "nv12", "nv21"])
@pytest.mark.parametrize("colour", [(200, 60, 30), (30, 60, 200), (20, 220, 90)])
@pytest.mark.parametrize("padding", [0, 3])
def test_yuv_gives_the_colour_back_to_rounding(encoding, colour, padding):
    y, u, v = yuv(*colour)
    row, chroma = {
        "uyvy": ([u, y, v, y], []),
        "yuyv": ([y, u, y, v], []),
        "nv12": ([y, y], [u, v]),
        "nv21": ([y, y], [v, u]),
    }[encoding]
    rows = [row * 2] * 4 + [chroma * 2] * (2 if chroma else 0)
    data = b"".join(bytes(row) + b"\xa5" * padding for row in rows)
    picture = picture_of(Image(4, 4, encoding, 0, len(rows[0]) + padding, data))
    assert picture.shape == (4, 4, 3)
    assert np.abs(picture.astype(int) - colour).max() <= 3  # Y, U and V have been rounded to 8 bits


def test_every_encoding_in_the_table_is_tested():
    mosaics = {f"bayer_{name}{bits}" for name in MOSAICS for bits in (8, 16)}
    assert set(ENCODINGS) == {row[0] for row in ROWS} | mosaics | {"nv12", "nv21"}


def test_16_bits_are_scaled_to_8_and_rounded():
    values = np.array([0, 128, 129, 257, 0x1234, 65278, 65534, 65535], "<u2")
    picture = picture_of(Image(1, 8, "mono16", 0, 16, values.tobytes()))
    assert picture[0, :, 0].tolist() == [0, 0, 1, 1, 18, 254, 255, 255]


@pytest.mark.parametrize("buffer", BUFFERS)
def test_data_may_be_any_buffer(buffer):
    message = Image(data=buffer(bytes([255, 0, 0, 0, 255, 0])))
    assert picture_of(message).tolist() == [[list(RED), list(GREEN)]]
    assert np.array_equal(picture_of(Compressed(buffer(encoded(".png")), "png")), gradient())


def test_an_rgb_picture_is_not_copied_and_ends_where_it_ends():
    data = np.arange(60, dtype=np.uint8)
    picture = picture_of(Image(data=data))
    assert picture.tolist() == [[[0, 1, 2], [3, 4, 5]]]
    assert np.shares_memory(picture, data)


def test_rosbags_own_messages_are_understood():
    typesys = pytest.importorskip("rosbags.typesys")
    types = typesys.get_typestore(typesys.Stores.ROS2_JAZZY).types
    stamp = types["builtin_interfaces/msg/Time"](sec=0, nanosec=0)
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="")
    data = np.array([255, 0, 0, 0, 255, 0], np.uint8)
    raw = types["sensor_msgs/msg/Image"](header, 1, 2, "rgb8", 0, 6, data)
    assert picture_of(raw).tolist() == [[list(RED), list(GREEN)]]
    png = types["sensor_msgs/msg/CompressedImage"](header, "png", np.frombuffer(encoded(".png"), np.uint8))
    assert np.array_equal(picture_of(png), gradient())


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_converter_gets_packed_8_bit_images_under_names_that_cv_bridge_knows(encoding):
    known = {"mono8", "rgb8", "bgr8", "rgba8", "bgra8", "yuv422", "yuv422_yuy2"}
    known |= {f"bayer_{name}8" for name in MOSAICS}
    convert = Mock(return_value=np.full((4, 4, 3), 7, np.uint8))
    picture = decode_image(Image(4, 4, encoding, 1, 37, bytes(37 * 6)), MAX_PIXELS, convert)
    message, wanted = convert.call_args.args
    assert (wanted, message.is_bigendian, message.height, message.width) == ("rgb8", 0, 4, 4)
    assert message.encoding in known
    assert message.data.shape == (4 * message.step,)
    assert message.step % 4 == 0
    assert (picture == 7).all()


sizes = st.one_of(st.integers(0, 12), st.integers(-3, 2**32 - 1))


@given(
    height=sizes,
    width=sizes,
    step=st.one_of(st.integers(0, 120), sizes),
    encoding=st.one_of(st.sampled_from(ENCODINGS), st.text(max_size=12)),
    is_bigendian=st.integers(0, 1),
    data=st.one_of(st.binary(max_size=200), st.integers(0, 2000).map(bytes)),
)
@settings(max_examples=500, deadline=None)
def test_any_header_gives_a_picture_of_its_size_or_a_refusal(**header):
    message = Image(**header)
    try:
        picture = picture_of(message)
    except MalformedImage:
        return
    assert picture.shape == (message.height, message.width, 3)


def gradient(height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth RGB picture: red grows to the right, green downwards, blue is 90."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([red, green, np.full_like(red, 90)], -1).astype(np.uint8)


def encoded(extension: str, rgb: np.ndarray | None = None, *options: int) -> bytes:
    picture = gradient() if rgb is None else rgb
    return cv2.imencode(extension, picture[..., ::-1] if picture.ndim == 3 else picture, options)[1].tobytes()


def with_segment(jpeg: bytes, marker: int, body: bytes) -> bytes:
    return jpeg[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + jpeg[2:]


def damaged(data: bytes, at: int, value: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([value]) + data[at + 1 :]


def png_that_claims(width: int, height: int) -> bytes:
    png = bytearray(encoded(".png"))
    png[16:24] = struct.pack(">II", width, height)
    return bytes(png)


def jpeg_that_claims(width: int, height: int) -> bytes:
    jpeg = encoded(".jpg")
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


@pytest.mark.parametrize("name", ["png", "bgr8; png compressed bgr8", "rgb8; png compressed bgr8", ""])
def test_a_png_comes_back_exactly(name):
    check_image(Compressed(encoded(".png"), name), MAX_PIXELS)
    assert np.array_equal(picture_of(Compressed(encoded(".png"), name)), gradient())


@pytest.mark.parametrize("name", ["jpeg", "rgb8; jpeg compressed bgr8", "bgr8; jpeg compressed bgr8", ""])
@pytest.mark.parametrize("progressive", [0, 1])
def test_a_jpeg_comes_back_closely(name, progressive):
    jpeg = encoded(".jpg", None, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
    check_image(Compressed(jpeg, name), MAX_PIXELS)
    assert np.abs(picture_of(Compressed(jpeg, name)).astype(int) - gradient()).mean() < 3


def test_grey_alpha_and_16_bits_become_8_bit_rgb():
    grey = np.full((8, 16), 77, np.uint8)
    assert (picture_of(Compressed(encoded(".jpg", grey), "jpeg")) == 77).all()
    assert (picture_of(Compressed(encoded(".png", grey), "png")) == 77).all()
    wide = encoded(".png", gradient().astype(np.uint16) * 257)
    alpha = encoded(".png", np.dstack([np.zeros((48, 64), np.uint8), gradient()]))  # encoded() turns it to BGRA
    assert np.array_equal(picture_of(Compressed(wide, "png")), gradient())
    assert np.array_equal(picture_of(Compressed(alpha, "png")), gradient())


def tables_first(jpeg: bytes) -> bytes:
    """The same picture, but with Huffman tables ahead of the frame header."""
    at = jpeg.index(b"\xff\xc4")
    return with_segment(jpeg, 0xC4, jpeg[at + 4 : at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")])


SIZED = {"raw": Image(48, 64, "mono8", 0, 64, bytes(3072)), "png": Compressed(encoded(".png"))}
SIZED |= {"jpeg": Compressed(encoded(".jpg")), "tables first": Compressed(tables_first(encoded(".jpg")))}


@pytest.mark.parametrize("message", SIZED.values(), ids=SIZED)
def test_the_limit_is_on_the_exact_number_of_pixels(message):
    assert decode_image(message, 48 * 64).shape == (48, 64, 3)
    with pytest.raises(MalformedImage, match="64 x 48 = 3072 pixels, more than 3071:"):
        check_image(message, 48 * 64 - 1)


def test_the_stored_orientation_is_kept():
    turn_right = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHHI", 0x0112, 3, 1, 6, 0, 0)
    jpeg = with_segment(encoded(".jpg"), 0xE1, turn_right)
    turned = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert turned.shape == (64, 48, 3)  # what would happen without the flag
    assert picture_of(Compressed(jpeg)).shape == (48, 64, 3)


@pytest.mark.parametrize("padding", [b"\0", b"\0" * 4096, b"\xff" * 16])
@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_padding_behind_the_end_is_tolerated(extension, padding):
    data = encoded(extension)
    assert np.array_equal(picture_of(Compressed(data + padding)), picture_of(Compressed(data)))


@pytest.mark.parametrize("tenths", range(10))
@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_a_truncated_picture_is_refused_wherever_it_was_cut(extension, tenths):
    data = encoded(extension, gradient(480, 640))
    error = refusal(Compressed(data[: len(data) * tenths // 10]))
    assert error.cause == ("undecodable" if tenths else "short_data")
    assert "whole images" in str(error)


def test_a_thumbnails_size_and_end_do_not_pass_for_the_pictures():
    thumbnail = encoded(".jpg", gradient(16, 16))
    jpeg = with_segment(encoded(".jpg"), 0xE1, thumbnail)
    assert picture_of(Compressed(jpeg)).shape == (48, 64, 3)
    bomb = with_segment(jpeg_that_claims(60_000, 60_000), 0xE1, thumbnail)
    assert refusal(Compressed(bomb)).cause == "too_large"
    assert "is cut after" in str(refusal(Compressed(jpeg[:-10])))


@pytest.mark.parametrize("data", [jpeg_that_claims(60_000, 60_000), png_that_claims(2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(data, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the bomb was decoded"))
    assert refusal(Compressed(data)).cause == "too_large"
    with pytest.raises(MalformedImage, match=r"vision\.max_megapixels"):
        check_image(Compressed(data), MAX_PIXELS)


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
    (Compressed(b"\xff\xd8\xff\xe0" + bytes(99)), "undecodable", "no readable frame header"),
    (Compressed(b"\xff\xd8" + b"\xff\xe0\0\x02" * 99_999), "undecodable", "no readable frame header"),
    # libjpeg would skip the bytes FF 00 and read a frame header that a walk by lengths steps over
    (Compressed(with_segment(encoded(".jpg"), 0x00, b"..")), "undecodable", "has no readable frame"),
    (Compressed(b"\x89PNG\r\n\x1a\n" + bytes(99)), "undecodable", "no IHDR chunk"),
    (Compressed(jpeg_that_claims(0, 48)), "zero_size", "0 x 48"),
    (Compressed(png_that_claims(64, 0)), "zero_size", "64 x 0"),
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


def test_a_damaged_png_is_refused():
    assert "cannot decode the 64 x 48" in str(refusal(Compressed(damaged(encoded(".png"), 60, 0))))


starts = st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"])
pictures = st.sampled_from([encoded(".jpg"), encoded(".png")])


@given(
    data=st.one_of(
        st.builds(bytes.__add__, starts, st.binary(max_size=200)),
        st.builds(damaged, pictures, st.integers(0, 10_000), st.integers(0, 255)),
    ),
    name=st.sampled_from(["", "jpeg", "png", "rgb8; jpeg compressed bgr8"]),
)
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_decoded_or_refused(data, name):
    try:
        picture = picture_of(Compressed(data, name))
    except MalformedImage:
        return
    assert picture.shape[2:] == (3,)
    assert picture.shape[0] * picture.shape[1] <= MAX_PIXELS
