"""The gate's novelty by hand, and its decisions on scenes."""

import math

import numpy as np
import pytest
from scenes import PERIOD_NS, frames_of, textured, tiny_config

from saccade_ros.config import EncoderConfig, GateConfig
from saccade_ros.engine import Engine, Stream
from saccade_ros.gate.surprise import SCALE_FLOOR, OpenGate, SurpriseGate, novelty


def test_novelty_is_the_mean_relative_change_of_the_most_changed_share():
    reference = np.array([[3.0, 4.0], [0.0, 5.0], [5.0, 0.0], [4.0, 3.0]], np.float32)  # all of length 5
    changed = reference + np.array([[0, 0], [0, 1], [0, 2], [0, 0]], np.float32)
    assert novelty(changed, reference, top_share=0.25, patch_scale=0.0) == pytest.approx(2 / 5)
    assert novelty(changed, reference, top_share=0.5, patch_scale=0.0) == pytest.approx((2 + 1) / 2 / 5)
    assert novelty(changed, reference, top_share=1.0, patch_scale=0.0) == pytest.approx(3 / 4 / 5)


def test_novelty_of_a_weak_patch_is_relative_to_the_mean_strength():
    reference = np.array([[0.0, 1.0], [0.0, 9.0]], np.float32)  # mean length 5
    changed = reference + np.array([[0, 1], [0, 0]], np.float32)
    assert novelty(changed, reference, top_share=0.0, patch_scale=0.0) == pytest.approx(1 / 5)


def test_novelty_in_an_empty_scene_is_relative_to_the_floor():
    reference = np.zeros((4, 2), np.float32)
    changed = reference + np.array([0, 3], np.float32)
    assert novelty(changed, reference, top_share=0.0, patch_scale=10.0) == pytest.approx(3 / (SCALE_FLOOR * 10))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_a_finite_number_is_an_error(bad):
    reference = np.ones((4, 2), np.float32)
    features = reference.copy()
    features[2, 1] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        novelty(features, reference, top_share=0.25, patch_scale=1.0)


def test_first_tubelet_and_the_one_after_a_reset_are_encoded():
    gate, features = SurpriseGate(GateConfig(), patch_scale=1.0), np.ones((4, 2), np.float32)
    assert gate.decide(features, 0).encode
    assert math.isnan(gate.decide(features, 0).novelty)
    gate.accept(features, 0)
    assert not gate.decide(features, 1).encode
    gate.reset()
    assert gate.decide(features, 2).encode


def test_threshold_is_inclusive_and_reported():
    gate, reference = SurpriseGate(GateConfig(tau=0.5, top_share=1.0), 0.0), np.full((1, 1), 2.0, np.float32)
    gate.accept(reference, 0)
    assert gate.decide(reference * 1.5, 1).encode
    decision = gate.decide(reference * 1.49, 1)
    assert not decision.encode
    assert decision.threshold == 0.5


def test_staleness_is_bounded_in_header_time():
    gate, features = SurpriseGate(GateConfig(max_skip_s=1.0), 1.0), np.ones((4, 2), np.float32)
    gate.accept(features, 5 * 10**9)
    assert not gate.decide(features, 6 * 10**9 - 1).encode
    assert gate.decide(features, 6 * 10**9).encode


def test_zero_max_skip_never_forces():
    gate, features = SurpriseGate(GateConfig(max_skip_s=0.0), 1.0), np.ones((4, 2), np.float32)
    gate.accept(features, 0)
    assert not gate.decide(features, 10**15).encode


def test_deciding_does_not_move_the_reference():
    gate, reference = SurpriseGate(GateConfig(tau=0.5, top_share=1.0), 0.0), np.full((1, 1), 1.0, np.float32)
    gate.accept(reference, 0)
    for step in range(1, 5):
        assert gate.decide(reference * (1 + 0.1 * step), step).novelty == pytest.approx(0.1 * step, rel=1e-5)


def test_gate_switched_off_encodes_everything_and_measures_nothing():
    gate, features = OpenGate(), np.ones((4, 2), np.float32)
    gate.accept(features, 0)
    assert gate.decide(features, 1).encode
    assert math.isnan(gate.decide(features, 1).novelty)


# Scenes, at the shipped defaults, through the whole engine.


@pytest.fixture(scope="module", params=["tiny", "vits"])
def engine(request) -> Engine:
    """Both grids: 8 x 8 patches of 128 px, 16 x 16 of 256 px."""
    return Engine(tiny_config(encoder=EncoderConfig(model=request.param, window=2)))


def encoded_count(stream: Stream, pictures: list) -> int:
    results = [stream.push(frame) for frame in frames_of(pictures)]
    return sum(result.encoded for result in results if result is not None)


@pytest.mark.parametrize("brightness", [1.0, 0.2, 0.03])
def test_static_scene_with_sensor_noise_stays_calm(engine, brightness):
    rng, scene = np.random.default_rng(1), textured() * brightness
    noisy = [np.clip(np.round(scene + rng.normal(0, 2, scene.shape)), 0, 255).astype(np.uint8) for _ in range(40)]
    assert encoded_count(engine.open_stream(), noisy) == 1


def test_featureless_wall_with_sensor_noise_stays_calm(engine):
    """Mid grey is nearly zero after normalisation: a purely relative change would be all noise."""
    rng, wall = np.random.default_rng(1), np.full((240, 320, 3), 118.0)
    noisy = [np.clip(np.round(wall + rng.normal(0, 2, wall.shape)), 0, 255).astype(np.uint8) for _ in range(40)]
    assert encoded_count(engine.open_stream(), noisy) == 1


@pytest.mark.parametrize("place", [(60, 80), (117, 133), (180, 220)])
def test_small_mover_in_one_percent_of_the_picture_fires(engine, place):
    scene, side = textured(), int((0.01 * 240 * 240) ** 0.5)  # of the centre square that the encoder sees
    appeared, (y, x) = scene.copy(), place
    appeared[y : y + side, x : x + side] = (200, 30, 30)
    assert encoded_count(engine.open_stream(), [scene, scene, appeared, appeared]) == 2


def test_pan_too_slow_for_any_single_step_fires_in_time(engine):
    """0.1 px a frame. A gate that compared with the previous tubelet would sleep for ever."""
    wide = textured(240, 400)
    pan = [wide[:, i // 10 : i // 10 + 320] for i in range(240)]
    stream = engine.open_stream()
    results = [r for r in (stream.push(frame) for frame in frames_of(pan)) if r is not None]
    fired = [r.index for r in results if r.encoded]
    assert len(fired) >= 2
    assert fired[1] * 2 * PERIOD_NS < 10e9, "before max_skip_s would have forced it"
    assert len(fired) < len(results) / 2, "and it did sleep most of the time"
