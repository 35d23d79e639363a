"""Raw messages become the right RGB picture, however their rows lie in memory."""

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_messages import MAX_PIXELS, Image, picture_of

from saccade_ros.vision.encodings import ENCODINGS
from saccade_ros.vision.images import check_image, decode_image
from saccade_ros.vision.malformed import MalformedImage

RED, GREEN = (255, 0, 0), (0, 255, 0)
BLACK, GREY, WHITE = (0, 0, 0), (51, 51, 51), (255, 255, 255)

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


def row_image(encoding: str, row: bytes, padding: int) -> Image:
    """Three times the same row of two pixels."""
    return Image(3, 2, encoding, 0, len(row) + padding, (row + b"\xa5" * padding) * 3)


def yuv(red: int, green: int, blue: int) -> tuple[int, int, int]:
    """BT.601, the 'TV' range: the definition, not OpenCV's fixed-point arithmetic."""
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    u, v = (blue - luma) / 1.772, (red - luma) / 1.402
    return round(16 + luma * 219 / 255), round(128 + u * 224 / 255), round(128 + v * 224 / 255)


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


def test_an_rgb_picture_is_not_copied_and_ends_where_it_ends():
    data = np.arange(60, dtype=np.uint8)
    picture = picture_of(Image(data=data))
    assert picture.tolist() == [[[0, 1, 2], [3, 4, 5]]]
    assert np.shares_memory(picture, data)


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
