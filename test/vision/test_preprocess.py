"""Pictures become the encoder's input as the checkpoint's own transform makes it."""

import tracemalloc

import cv2
import numpy as np
import pytest

from saccade_ros.vision.preprocess import grey_levels, normalize, normalize_all, resize_to_square, tubelet_pixels

torch = pytest.importorskip("torch")

MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])
ASPECTS = [(480, 640), (640, 480), (1080, 1920), (720, 1280), (240, 320), (300, 300), (256, 256), (301, 417)]
SMALL = [(1, 1), (1, 2), (2, 1), (3, 5), (64, 64), (100, 180)]
EXTREME = [(1, 500), (500, 1), (1, 200_000), (200_000, 1), (8, 3000), (3000, 8), (300, 5000)]


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Shapes with sharp edges on a ramp, with the sensor noise of a camera."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    picture = np.stack([255 * x, 255 * y, 128 + 0 * x], -1)
    for _ in range(12):
        (cx, cy), radius = rng.random(2), 0.02 + 0.1 * rng.random()
        picture[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = rng.integers(0, 256, 3)
    return np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


def resized_by_torch(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """What transformers' VJEPA2VideoProcessor does by way of torchvision."""
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).round().clamp(0, 255).numpy()


def cropped_by_torch(picture: np.ndarray, size: int) -> np.ndarray:
    height, width = picture.shape[:2]
    shorter = int(size * 256 / 224)
    if width <= height:
        height, width = int(shorter * height / width), shorter
    else:
        height, width = shorter, int(shorter * width / height)
    top, left = int((height - size) / 2.0), int((width - size) / 2.0)
    return resized_by_torch(picture, height, width)[top : top + size, left : left + size]


def levels_apart(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Mean and 99th percentile of the difference, in grey levels of 255."""
    apart = np.abs(ours.astype(float) - theirs)
    return apart.mean(), np.percentile(apart, 99)


@pytest.mark.parametrize("shape", ASPECTS)
@pytest.mark.parametrize("size", [256, 128])
def test_crop_is_the_checkpoints_own_transform(shape, size):
    picture = scene(*shape)
    mean, p99 = levels_apart(resize_to_square(picture, size, "crop"), cropped_by_torch(picture, size))
    assert mean < 1.0
    assert p99 < 10.0


@pytest.mark.parametrize("shape", [(720, 1280), (480, 640)])
def test_the_tolerance_would_notice_a_shift_of_one_pixel(shape):
    picture = scene(*shape)
    shifted = np.roll(resize_to_square(picture, 256, "crop"), 1, axis=1)
    mean, p99 = levels_apart(shifted, cropped_by_torch(picture, 256))
    assert mean > 1.0 or p99 > 10.0


@pytest.mark.parametrize("shape", ASPECTS)
def test_stretch_shows_the_whole_picture(shape):
    picture = scene(*shape)
    mean, p99 = levels_apart(resize_to_square(picture, 256, "stretch"), resized_by_torch(picture, 256, 256))
    assert mean < 1.0
    assert p99 < 10.0


@pytest.mark.parametrize("shape", SMALL)
@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_a_small_picture_grows_bilinearly(shape, fit):
    picture = scene(*shape)
    reference = cropped_by_torch(picture, 256) if fit == "crop" else resized_by_torch(picture, 256, 256)
    assert np.abs(resize_to_square(picture, 256, fit).astype(float) - reference).max() <= 1.0


@pytest.mark.parametrize("shape", EXTREME)
@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_any_aspect_ratio_becomes_a_square(shape, fit):
    picture = np.full((*shape, 3), (10, 120, 240), np.uint8)
    square = resize_to_square(picture, 64, fit)
    assert square.shape == (64, 64, 3)
    assert (square == (10, 120, 240)).all()


@pytest.mark.parametrize("shape", [(2, 100_000), (100_000, 2)])
def test_a_long_picture_takes_no_memory_for_what_is_cut_off(shape):
    picture = np.zeros((*shape, 3), np.uint8)
    tracemalloc.start()
    resize_to_square(picture, 64, "crop")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("shape", [(100, 3000), (3000, 100), (101, 3000), (3000, 101)])
def test_crop_takes_the_centre_of_a_long_picture(shape):
    long_axis = int(np.argmax(shape))
    ramp = np.linspace(0, 255, 3000)
    picture = np.broadcast_to(ramp[None, :] if long_axis else ramp[:, None], shape)
    square = resize_to_square(np.repeat(picture[..., None], 3, -1).astype(np.uint8), 64, "crop")
    assert abs(square.mean() - 127.5) < 1.0


@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_fine_stripes_average_out_instead_of_aliasing(fit):
    stripes = np.zeros((1024, 100, 3), np.uint8) if fit == "stretch" else np.zeros((1024, 1024, 3), np.uint8)
    stripes[::2] = 200
    square = resize_to_square(stripes, 128, fit)
    assert np.abs(square.astype(int) - 100).max() <= 26  # 200 and 0 would be aliased ones


def test_an_unknown_fit_is_refused_by_name():
    with pytest.raises(ValueError, match="'squash': choose crop or stretch"):
        resize_to_square(scene(4, 4), 64, "squash")


@pytest.mark.parametrize("shape", [*ASPECTS, (146, 259), (147, 290), (1000, 500)])
def test_pixels_that_are_cut_off_need_not_be_made(shape):
    """The square is the middle of the whole picture, resized."""
    picture, size = scene(*shape), 128
    rows, columns = shape
    height, width = (int(146 * side / min(shape)) for side in shape)
    factor = max(
        n for n in range(1, 9) if rows % n == columns % n == 0 and rows // n >= height and columns // n >= width
    )
    whole = cv2.resize(picture, (columns // factor, rows // factor), interpolation=cv2.INTER_AREA)
    whole = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
    top, left = (height - size) // 2, (width - size) // 2
    expected = whole[top : top + size, left : left + size]
    assert np.array_equal(resize_to_square(picture, size, "crop"), expected)


def test_normalize_writes_where_it_is_asked_to():
    picture, pixels = scene(48, 64)[:, ::-1], np.zeros((2, 3, 48, 64), np.float32)
    assert normalize(picture, pixels[1]).base is pixels
    assert np.array_equal(pixels[1], normalize(picture))
    assert not pixels[0].any()


def test_normalize_subtracts_the_mean_and_divides_by_the_deviation():
    every_value = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, -1)
    pixels = normalize(every_value)
    expected = ((every_value / 255.0 - MEAN) / STD).transpose(2, 0, 1)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    assert np.abs(pixels - expected).max() < 1e-6


def test_channels_stay_in_the_order_red_green_blue():
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    assert normalize(red)[:, 0, 0] == pytest.approx((np.array([1.0, 0.0, 0.0]) - MEAN) / STD, abs=1e-6)


@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_a_tubelet_holds_the_older_picture_first(fit):
    older, newer = scene(480, 640, seed=1), scene(240, 320, seed=2)
    pixels = tubelet_pixels(older, newer, 64, fit)
    assert pixels.shape == (2, 3, 64, 64)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    assert np.array_equal(pixels[0], normalize(resize_to_square(older, 64, fit)))
    assert np.array_equal(pixels[1], normalize(resize_to_square(newer, 64, fit)))


@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_the_pictures_are_left_alone_and_may_be_read_only(fit):
    older, newer = scene(480, 640, seed=1), scene(256, 256, seed=2)
    before = older.copy(), newer.copy()
    older.flags.writeable = newer.flags.writeable = False
    tubelet_pixels(older, newer, 256, fit)
    assert np.array_equal(older, before[0])
    assert np.array_equal(newer, before[1])


def test_equal_pictures_give_equal_pixels():
    picture = scene(480, 640)
    pixels = tubelet_pixels(picture, picture.copy(), 256, "crop")
    assert np.array_equal(pixels[0], pixels[1])


def test_many_pictures_are_normalised_as_one_is():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4, 3), dtype=np.uint8)
    pixels = normalize_all(pictures)
    assert pixels.shape == (2, 3, 3, 5, 4)
    assert np.array_equal(pixels[1, 2], normalize(pictures[1, 2]))


def test_grey_levels_are_those_of_the_picture():
    picture = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    assert grey_levels(normalize_all(picture)) == pytest.approx(picture.transpose(0, 3, 1, 2), abs=1e-3)
