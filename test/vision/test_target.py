"""What the encoder sees does not depend on how few pixels were made for it."""

import numpy as np
import pytest
from image_messages import Compressed, Image, encoded
from test_preprocess import scene

from saccade_ros.vision.encodings import ENCODINGS, layout_of
from saccade_ros.vision.images import decode_image
from saccade_ros.vision.preprocess import resize_to_square
from saccade_ros.vision.target import Square

MAX_PIXELS = 3_000_000
FITS = ["crop", "stretch"]


def raw_image(encoding: str, height: int, width: int, padding: int = 0) -> Image:
    """Detail of every kind, byte by byte, with padded rows."""
    layout = layout_of(encoding)
    coarse = scene(height, width, seed=3).reshape(height, -1)
    step = layout.row_bytes(width) + padding
    rows = np.resize(coarse, (layout.stored_rows(height), step))
    return Image(height, width, encoding, 0, step, rows.tobytes())


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("height", "width"), [(240, 320), (148, 202), (40, 60), (62, 60), (30, 200)])
def test_a_raw_image_gives_the_same_square_to_the_bit(encoding, fit, height, width):
    message = raw_image(encoding, height, width, padding=6)
    whole = decode_image(message, MAX_PIXELS)
    square = decode_image(message, MAX_PIXELS, target=Square(64, fit))
    assert square.flags.c_contiguous
    assert np.array_equal(square, resize_to_square(whole, 64, fit))


@pytest.mark.parametrize("fit", FITS)
def test_a_picture_and_a_png_give_the_same_square_to_the_bit(fit):
    picture = scene(120, 180)
    expected = resize_to_square(picture, 64, fit)
    for image in (picture, Compressed(encoded(".png", picture), "png")):
        assert np.array_equal(decode_image(image, MAX_PIXELS, target=Square(64, fit)), expected)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize(
    "shape", [(720, 1280), (1080, 1920), (480, 640), (640, 480), (301, 417), (240, 1000), (99, 64)]
)
def test_a_jpeg_gives_the_same_square_to_a_grey_level(shape, size, fit):
    jpeg = Compressed(encoded(".jpg", scene(*shape)))
    expected = resize_to_square(decode_image(jpeg, MAX_PIXELS), size, fit).astype(int)
    square = decode_image(jpeg, MAX_PIXELS, target=Square(size, fit))
    assert square.shape == (size, size, 3)
    apart = np.abs(square - expected)
    assert apart.mean() < 0.6
    assert np.percentile(apart, 99) <= 5


@pytest.mark.parametrize(
    ("shape", "size", "fit", "factor"),
    [
        ((720, 1280), 128, "crop", 4),
        ((720, 1280), 256, "crop", 2),
        ((1080, 1920), 128, "crop", 2),  # of the whole factor, 6, which keeps the areas that are averaged
        ((1080, 1920), 256, "crop", 1),
        ((2160, 3840), 64, "crop", 8),
        ((480, 640), 256, "crop", 1),
        ((480, 640), 240, "stretch", 2),
        ((721, 1281), 128, "crop", 1),  # half a pixel would shift the view
        ((400, 1608), 128, "crop", 2),
        ((400, 1606), 128, "crop", 1),  # so would what is cut off at the ends: 403 columns
        ((64, 64), 128, "crop", 1),
    ],
)
def test_a_decoder_may_shrink_as_far_as_the_resizing_goes_anyway(shape, size, fit, factor):
    assert Square(size, fit).reduction(*shape) == factor
