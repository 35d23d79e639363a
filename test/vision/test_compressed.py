"""JPEG and PNG messages become the RGB picture that was stored, or a refusal."""

import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_messages import (
    MAX_PIXELS,
    Compressed,
    encoded,
    forbid_decoding,
    gradient,
    jpeg_that_claims,
    picture_of,
    png_that_claims,
    refusal,
    with_segment,
)

from saccade_ros.vision.images import check_image
from saccade_ros.vision.malformed import MalformedImage


def damaged(data: bytes, at: int, value: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([value]) + data[at + 1 :]


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
    alpha = encoded(".png", np.dstack([np.zeros((48, 64), np.uint8), gradient()]))  # encoded() makes it BGRA
    assert np.array_equal(picture_of(Compressed(wide, "png")), gradient())
    assert np.array_equal(picture_of(Compressed(alpha, "png")), gradient())


def test_the_stored_orientation_is_kept():
    rotate_right = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHHI", 0x0112, 3, 1, 6, 0, 0)
    jpeg = with_segment(encoded(".jpg"), 0xE1, rotate_right)
    rotated = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert rotated.shape == (64, 48, 3)  # what would happen without the flag
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
    assert "is cut" in str(refusal(Compressed(jpeg[:-10])))


@pytest.mark.parametrize("data", [jpeg_that_claims(60_000, 60_000), png_that_claims(2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(data, monkeypatch):
    forbid_decoding(monkeypatch)
    assert refusal(Compressed(data)).cause == "too_large"
    with pytest.raises(MalformedImage, match=r"vision\.max_megapixels"):
        check_image(Compressed(data), MAX_PIXELS)


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
