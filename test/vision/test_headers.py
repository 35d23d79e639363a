"""The size of a JPEG or PNG is found in its header, wherever that is."""

import struct

import pytest
from image_messages import encoded, with_segment

from saccade_ros.vision.headers import jpeg_header, png_header
from saccade_ros.vision.malformed import MalformedImage

JPEG, PNG = encoded(".jpg"), encoded(".png")  # 64 x 48


@pytest.mark.parametrize("before", [b"", b"\xff", b"\xff" * 7, b"\xff\xe0\0\x02" * 99])
def test_a_jpegs_size_is_found_behind_fill_bytes_and_segments(before):
    jpeg = JPEG[:2] + before + JPEG[2:]
    header = jpeg_header(memoryview(jpeg))
    assert (header.width, header.height) == (64, 48)
    assert jpeg[header.offset - 4 : header.offset] == struct.pack(">HH", 48, 64)


def test_a_pngs_size_is_in_its_first_chunk():
    header = png_header(memoryview(PNG))
    assert (header.width, header.height) == (64, 48)
    assert PNG[header.offset - 8 : header.offset] == struct.pack(">II", 64, 48)


@pytest.mark.parametrize(("data", "read"), [(JPEG, jpeg_header), (PNG, png_header)], ids=["jpeg", "png"])
def test_only_a_whole_picture_has_the_end_mark_behind_its_header(data, read):
    header = read(memoryview(data))
    assert header.end_mark in data[header.offset :]
    assert header.end_mark not in data[header.offset : -1]


def test_the_search_for_a_jpegs_size_ends():
    with pytest.raises(MalformedImage, match="no readable frame header"):
        jpeg_header(memoryview(JPEG[:2] + b"\xff\xe0\0\x02" * 1024 + JPEG[2:]))


def test_a_comment_that_looks_like_a_frame_header_is_stepped_over():
    fake = b"\xff\xc0\0\x11\x08" + struct.pack(">HH", 1, 1)
    header = jpeg_header(memoryview(with_segment(JPEG, 0xFE, fake)))
    assert (header.width, header.height) == (64, 48)
