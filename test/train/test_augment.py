"""Augmentation changes light, noise and blur of a clip, by a seed, and nothing else."""

import numpy as np
import pytest
import torch
from scenes import textured

from saccade_ros.frames import IMAGENET_MEAN, IMAGENET_STD
from saccade_ros.train import augment
from saccade_ros.train.augment import augmented_pixels, plain_pixels
from saccade_ros.vision.preprocess import normalize


def clips(count: int, tubelets: int = 2, side: int = 48) -> np.ndarray:
    frames = [textured(side, side, seed) for seed in range(count * tubelets * 2)]
    return np.stack(frames).reshape(count, tubelets, 2, side, side, 3)


def levels(pixels: torch.Tensor) -> np.ndarray:
    """Normalised pixels as levels, 0 to 1: (B, T, 2, H, W, 3)."""
    values = np.moveaxis(pixels.numpy(), -3, -1) * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN)
    return np.asarray(values)


def draws(monkeypatch, **constants: float) -> None:
    """Switch parts of the augmentation off, or always on."""
    for name, value in constants.items():
        monkeypatch.setattr(augment, name, value)


def test_plain_pixels_are_normalised_as_the_node_does_it():
    pictures = clips(2)
    pixels = plain_pixels(pictures)
    assert pixels.shape == (2, 2, 2, 3, 48, 48)
    plane = np.empty((3, 48, 48), np.float32)
    normalize(pictures[1, 0, 1], plane)
    assert pixels[1, 0, 1].numpy() == pytest.approx(plane, abs=1e-6)


def test_same_seed_gives_the_same_pixels_and_another_seed_others():
    first, again, other = (augmented_pixels(clips(4), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (4, 2, 2, 3, 48, 48)
    assert first.dtype == torch.float32
    assert torch.isfinite(first).all()


def test_pictures_themselves_are_left_alone():
    pictures = clips(2)
    before = pictures.copy()
    augmented_pixels(pictures, np.random.default_rng(0))
    assert np.array_equal(pictures, before)


def test_clips_differ_in_their_light(monkeypatch):
    draws(monkeypatch, SELDOM=0.0, OFTEN=1.0)
    same = np.repeat(clips(1), 16, axis=0)
    means = levels(augmented_pixels(same, np.random.default_rng(0))).mean(axis=(1, 2, 3, 4))  # (B, 3)
    assert means.std(axis=0).min() > 0.05
    assert (means / means.mean(axis=1, keepdims=True)).std(axis=0).min() > 0.02, "colours shift, too"


def test_light_keeps_the_order_of_levels_and_flickers_between_tubelets_only(monkeypatch):
    draws(monkeypatch, SELDOM=0.0, OFTEN=1.0)
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (1, 3, 2, 256, 1, 3))
    shown = levels(augmented_pixels(np.ascontiguousarray(ramp), np.random.default_rng(0)))[
        0, :, :, :, 0
    ]  # (T, 2, 256, 3)
    assert (np.diff(shown, axis=2) >= -1e-6).all()
    assert shown.min() >= -1e-6
    assert shown.max() <= 1 + 1e-6
    assert np.array_equal(shown[:, 0], shown[:, 1])
    assert not np.allclose(shown[0], shown[1], atol=1e-3)


def test_some_clips_keep_their_light():
    pictures = np.repeat(clips(1), 40, axis=0)
    pixels, plain = augmented_pixels(pictures, np.random.default_rng(0)), plain_pixels(pictures)
    untouched = sum(torch.equal(one, other) for one, other in zip(pixels, plain, strict=True))
    assert 1 <= untouched < 10


def test_noise_is_of_each_pixel_and_within_its_bound(monkeypatch):
    draws(monkeypatch, OFTEN=0.0, SELDOM=1.1, _blurred=lambda clip: clip)
    pictures = np.full((12, 1, 2, 48, 48, 3), 128, np.uint8)
    noise = levels(augmented_pixels(pictures, np.random.default_rng(0))) - 128 / 255
    deviations = noise.std(axis=(1, 2, 3, 4, 5))
    assert 0 < deviations.max() <= 1.05 * augment.NOISE
    assert deviations.std() > 0.01, "each clip has its own"
    assert np.abs(noise.mean(axis=(1, 2, 3, 4, 5))).max() < 0.01


def test_blur_keeps_the_mean_and_lowers_contrast_of_details(monkeypatch):
    draws(monkeypatch, OFTEN=0.0, SELDOM=1.1, NOISE=0.0)
    pictures = clips(1)
    plain, blurred = levels(plain_pixels(pictures)), levels(augmented_pixels(pictures, np.random.default_rng(0)))
    assert blurred.mean() == pytest.approx(plain.mean(), abs=0.005)
    steps = [np.abs(np.diff(values, axis=3)).max() for values in (plain, blurred)]
    assert steps[1] < 0.6 * steps[0]
    flat = np.full((1, 1, 2, 16, 16, 3), 77, np.uint8)
    assert levels(augmented_pixels(flat, np.random.default_rng(0))) == pytest.approx(77 / 255, abs=1e-5), "edges, too"
