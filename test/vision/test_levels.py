"""16-bit images keep the grey levels that the settings name, and a warning comes where few are left."""

import numpy as np
import pytest
from image_messages import MAX_PIXELS, Compressed, Image, encoded, gradient

from saccade_ros.config import Config, ConfigError, VisionConfig
from saccade_ros.frames import Frame
from saccade_ros.pipeline import Intake
from saccade_ros.vision.images import decode_image
from saccade_ros.vision.levels import Levels

THERMAL = np.linspace(7600, 8400, 64 * 48).reshape(48, 64).astype(np.uint16)


def message(samples: np.ndarray, encoding: str = "mono16") -> Image:
    return Image(*samples.shape, encoding, 0, 2 * samples.shape[1], samples.astype("<u2").tobytes())


def shown(image: Image | Compressed, levels: Levels) -> np.ndarray:
    return decode_image(image, MAX_PIXELS, levels=levels)[..., 0].astype(int)


@pytest.mark.parametrize("image", [message(THERMAL), Compressed(encoded(".png", THERMAL), "mono16; png compressed ")])
def test_the_range_becomes_black_to_white(image):
    expected = np.clip((THERMAL - 7600.0) / 800 * 255, 0, 255)
    assert np.abs(shown(image, Levels(7600, 8400)) - expected).max() <= 1
    expected = np.clip((THERMAL - 8000.0) / 200 * 255, 0, 255)
    assert np.abs(shown(image, Levels(8000, 8200)) - expected).max() <= 1


@pytest.mark.parametrize("encoding", ["bayer_rggb16", "mono16"])
def test_the_full_range_is_the_default_and_scales_as_ever(encoding):
    samples = np.full((4, 4), 12_345, np.uint16)
    assert (shown(message(samples, encoding), Levels()) == round(12_345 / 257)).all()
    assert VisionConfig().mono16_range == (0, 65535)


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (THERMAL, ("7600 to 8398", "4 of 256", "[6802, 9196]")),
        (THERMAL // 2, ("3800 to 4199", "2 of 256")),
        (np.linspace(0, 4095, 3072).reshape(48, 64).astype(np.uint16), ("4 to 4089", "17 of 256", "[0, 8174]")),
        (
            np.linspace(0, 16383, 3072).reshape(48, 64).astype(np.uint16),
            ("16 to 1636", "65 of 256", "vision.mono16_range"),
        ),
    ],
    ids=["thermal", "darker", "12 bits", "14 bits"],
)
def test_few_levels_are_told_once_with_their_values_and_the_remedy(samples, says):
    told: list[str] = []
    levels = Levels(name="/thermal", warn=told.append)
    for _ in range(3):
        shown(message(samples), levels)
    assert len(told) == 1
    assert told[0].startswith("/thermal uses the 16-bit levels")
    assert all(part in told[0] for part in says), told[0]


def test_dead_pixels_do_not_hide_that_few_levels_are_left():
    told: list[str] = []
    samples = THERMAL.copy()
    samples[0, :2] = 0, 65535
    shown(message(samples), Levels(warn=told.append))
    assert "4 of 256" in told[0]


def test_a_covered_lens_is_waited_out():
    told: list[str] = []
    levels = Levels(warn=told.append)
    shown(message(np.zeros_like(THERMAL)), levels)
    assert not told
    shown(message(THERMAL), levels)
    assert told


def test_a_warning_comes_later_if_the_levels_are_few_later():
    told: list[str] = []
    levels = Levels(warn=told.append)
    shown(message(np.linspace(0, 65535, 3072).reshape(48, 64).astype(np.uint16)), levels)
    assert not told
    shown(message(THERMAL), levels)
    assert told


def test_nothing_is_told_of_a_fitting_range_nor_of_8_bits():
    told: list[str] = []
    shown(message(THERMAL), Levels(7600, 8400, warn=told.append))
    shown(Compressed(encoded(".png", gradient() // 8), "png"), Levels(warn=told.append))
    assert not told


def test_a_stream_uses_the_setting_and_names_its_topic():
    told: list[str] = []
    frame = Frame(message(THERMAL), 0)
    narrow = Config(vision=VisionConfig(mono16_range=(7600, 8400)))
    assert np.ptp(Intake(narrow, name="/thermal", warn=told.append).decode(frame)) == 255
    assert not told
    assert np.ptp(Intake(Config(), name="/thermal", warn=told.append).decode(frame)) == 3
    assert told[0].startswith("/thermal uses the 16-bit levels 7600 to 8398")


@pytest.mark.parametrize("bad", [(5, 5), (9, 3), (1,), (1, 2, 3), (-1, 5), (0, 65536)])
def test_a_range_that_cannot_be_is_refused(bad):
    with pytest.raises(ConfigError, match=r"vision\.mono16_range is"):
        VisionConfig(mono16_range=bad)
