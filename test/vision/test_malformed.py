"""What a refusal quotes of a message is bounded: anybody may publish a megabyte of encoding."""

from dataclasses import replace

import pytest
from image_messages import MAX_PIXELS, Image

from saccade_ros.vision.compressed import check_compressed
from saccade_ros.vision.images import check_image
from saccade_ros.vision.malformed import MalformedImage

GOOD = Image(1, 1, "rgb8", 0, 3, bytes(3))


@pytest.mark.parametrize("text", ["x" * 1_000_000, "\n" * 500_000, "\0" * 100_000, "ü" * 300_000])
def test_encoding_of_a_megabyte_is_refused_in_a_line(text):
    with pytest.raises(MalformedImage, match=r"characters\) is not supported: publish one of") as refused:
        check_image(replace(GOOD, encoding=text), MAX_PIXELS)
    assert len(str(refused.value)) < 1100
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["x" * 1_000_000, "16UC1; compressedDepth " + "y" * 1_000_000])
def test_format_of_a_megabyte_is_refused_in_a_line(text):
    class Compressed:
        format, data = text, b"no picture"

    with pytest.raises(MalformedImage) as refused:
        check_compressed(Compressed(), MAX_PIXELS)
    assert len(str(refused.value)) < 1100
