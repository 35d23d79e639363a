"""What users ask of a gate, criterion by criterion: every setting at its default, and the default model.

`alone` is the gate with tokens.select: all, `selecting` the shipped default, with token selection behind it. The camera
gives 25 pictures a second, and all are used. docs/gate.md has a line for each criterion. test_gate.py asks the same of
other grids, with random weights.
"""

from collections.abc import Iterable

import cv2
import numpy as np
import pytest
from scenes import frames_of, textured, tiny_config

from saccade_ros.config import EncoderConfig, TokensConfig
from saccade_ros.frames import EmbeddingResult, Picture
from saccade_ros.pipeline import Pipeline, Stream

WINDOW = EncoderConfig().window
SIDE = 128  # of the pictures: the encoder's own, 8 x 8 patches of 16 pixels
STILL = 120  # pictures: 4.8 s, less than gate.max_skip_s
SETTLED = 60  # tubelets after which token selection refreshes nothing of a still scene any more
CALM, AFTER = 80, 60  # pictures before and after something happens; the first tubelet of it is number 40
SCENE, OTHER = textured(SIDE, SIDE), textured(SIDE, SIDE, seed=5)


@pytest.fixture(scope="module")
def alone() -> Pipeline:
    return Pipeline(tiny_config(encoder=EncoderConfig()))


@pytest.fixture(scope="module")
def selecting(alone) -> Pipeline:
    return Pipeline(tiny_config(encoder=EncoderConfig(), tokens=TokensConfig()), alone.backend)


def show(pipeline: Pipeline, pictures: Iterable[Picture]) -> tuple[Stream, list[EmbeddingResult]]:
    stream = pipeline.open_stream()
    return stream, [r for r in map(stream.push, frames_of(list(pictures))) if r is not None]


def encoded(results: list[EmbeddingResult]) -> list[int]:
    """Numbers of the tubelets that the encoder ran for."""
    return [n for n, result in enumerate(results) if result.encoded]


def onsets(results: list[EmbeddingResult]) -> list[int]:
    """Numbers of the tubelets in which an event began."""
    return [n for n, result in enumerate(results) if result.onset]


def computed_share(results: list[EmbeddingResult]) -> float:
    return float(np.mean([result.tokens_computed / result.tokens for result in results]))


def as_picture(levels: np.ndarray) -> Picture:
    return np.clip(np.round(levels), 0, 255).astype(np.uint8)


def noisy(scene: np.ndarray, sigma: float, count: int) -> list[Picture]:
    rng = np.random.default_rng(1)
    return [as_picture(scene + rng.normal(0, sigma, scene.shape)) for _ in range(count)]


def compressed(picture: Picture, quality: int) -> Picture:
    return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def with_object(scene: Picture, side: int = 16, left: int = 70) -> Picture:
    shown = scene.copy()
    shown[60 : 60 + side, left : left + side] = (30, 30, 200)
    return shown


def test_identical_frames_are_encoded_once_and_every_skip_is_counted(alone):
    stream, results = show(alone, [SCENE] * STILL)
    assert encoded(results) == [0]
    assert [result.reuse_count for result in results] == list(range(STILL // 2))
    assert (stream.published, stream.encoded, stream.ledger.used) == (STILL // 2, 1, STILL)
    assert all(np.array_equal(result.vector, results[0].vector) for result in results)


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_compression_of_a_noisy_still_scene_costs_nothing(alone, quality):
    _, results = show(alone, [compressed(picture, quality) for picture in noisy(SCENE, 1.0, STILL)])
    assert encoded(results) == [0]


def test_compression_that_varies_from_picture_to_picture_costs_nothing_once_settled(alone, selecting):
    pictures = [compressed(SCENE, 50 + 15 * (i // 2 % 4)) for i in range(2 * SETTLED + 40)]
    assert encoded(show(alone, pictures)[1]) == [0]
    assert computed_share(show(selecting, pictures)[1][SETTLED:]) == 0


def test_sensor_noise_in_the_dark_costs_nothing_once_settled(alone, selecting):
    """Levels of 2 % of the scene's, and noise of sigma 4 of 255, much of it below black."""
    pictures = noisy(SCENE * 0.02, 4.0, 2 * SETTLED + 40)
    assert encoded(show(alone, pictures)[1]) == [0]
    assert computed_share(show(selecting, pictures)[1][SETTLED:]) <= 0.03


@pytest.mark.parametrize("gain", [0.7, 0.85, 1.2, 1.4])
def test_step_of_exposure_is_no_event_and_costs_a_few_encodes(alone, gain):
    """It does change the embedding: up to three encodes within ten tubelets, until the window is all of it."""
    _, results = show(alone, [as_picture(SCENE * 0.6)] * CALM + [as_picture(SCENE * 0.6 * gain)] * AFTER)
    assert onsets(results) == []
    assert 1 <= len(encoded(results)[1:]) <= 3
    assert CALM // 2 <= min(encoded(results)[1:]) <= max(encoded(results)) <= CALM // 2 + 10


def test_mains_flicker_is_no_event_and_costs_up_to_half_of_the_tokens(alone, selecting):
    """A weakness: bands of a rolling shutter, 20 % deep, wander for ever, and each is a change of that part."""
    rows = np.linspace(0, 2 * np.pi, SIDE)
    pictures = [as_picture(SCENE * (1 + 0.2 * np.sin(rows * 2 + 0.1 * i))[:, None, None]) for i in range(STILL)]
    for pipeline, share in ((alone, 0.3), (selecting, 0.5)):
        _, results = show(pipeline, pictures)
        assert onsets(results) == []
        assert computed_share(results[10:]) <= share


def test_mover_of_one_patch_is_an_event_encoded_at_once(alone):
    _, results = show(alone, [SCENE] * CALM + [with_object(SCENE, left=20 + i) for i in range(AFTER)])
    assert onsets(results) == [CALM // 2]
    assert results[CALM // 2].reason == "event"


def test_slow_pan_adds_up(alone):
    """By a tenth of a pixel a picture: an encode for two or three pixels, and no step of it is an event."""
    wide = textured(SIDE, 2 * SIDE)
    _, results = show(alone, [wide[:, i // 10 : i // 10 + SIDE] for i in range(2 * STILL)])
    assert onsets(results) == []
    assert 5 <= max(np.diff(encoded(results))) <= 15


@pytest.mark.parametrize("gain", [0.7, 1.3])
def test_change_that_comes_with_a_switch_of_the_light_is_encoded_at_once(alone, gain):
    scene = as_picture(SCENE * 0.6)
    _, results = show(alone, [scene] * CALM + [as_picture(with_object(scene) * gain)] * AFTER)
    assert onsets(results) == [CALM // 2]
    assert results[CALM // 2].encoded


def test_hard_cut_is_encoded_at_once_and_while_it_fills_the_window(alone, selecting):
    pictures = [SCENE] * CALM + [OTHER] * AFTER
    for pipeline in (alone, selecting):
        _, results = show(pipeline, pictures)
        assert onsets(results) == [CALM // 2]
        assert computed_share(results[CALM // 2 : CALM // 2 + 3]) == 1
    assert computed_share(results[CALM // 2 : CALM // 2 + WINDOW]) == 1
