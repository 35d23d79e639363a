"""The gate's decisions: rules one by one, then scenes at the shipped defaults through the whole engine."""

import math

import numpy as np
import pytest
from scenes import PERIOD_NS, frames_of, textured, tiny_config

from saccade_ros.config import EncoderConfig, GateConfig
from saccade_ros.engine import Engine, Stream
from saccade_ros.plan.gate import OpenGate, SurpriseGate
from saccade_ros.plan.patches import PatchResponse

# Patch embeddings of four patches that see no light: only what they hold counts.
BLIND = PatchResponse(grey=np.zeros(8, np.float32), uniform=np.zeros((3, 8), np.float32), white=0.0)
SCENE = np.eye(4, 8, dtype=np.float32)


def changed(by: float, patch: int = 3) -> np.ndarray:
    """The scene with one patch changed by this share of its length, in a direction that is no gain."""
    features = SCENE.copy()
    features[patch, 7] += by
    return features


def gate_for(**settings: object) -> SurpriseGate:
    gate = SurpriseGate(GateConfig(**{"top_fraction": 0.0, "drift_limit": 0.0, **settings}), BLIND)
    gate.accept(gate.decide(SCENE, 0), SCENE, 0)
    return gate


def expected(by: float) -> float:
    """Half of the change of the most changed patch, and three times the common change, a quarter of it."""
    return 0.5 * (by + 6 * by / 4)


def test_novelty_is_half_the_top_and_half_the_common_change():
    decision = gate_for().decide(changed(0.1), 1)
    assert decision.novelty == pytest.approx(expected(0.1), rel=1e-4)
    assert decision.patches == pytest.approx([0, 0, 0, 0.1], abs=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_a_finite_number_is_an_error(bad):
    with pytest.raises(ValueError, match="NaN or infinity"):
        gate_for().decide(changed(bad), 1)


def test_budget_takes_no_pause_before_a_reset_for_an_interval():
    still, paused = ([gate_for(mode="budget", tau_min=0.001)] for _ in range(2))
    for gates, pause_s in ((still, 0), (paused, 3600)):
        for t in range(1, 40):
            if t == 20:
                gates[0].reset()
            stamp_ns = t * PERIOD_NS + (t >= 20) * pause_s * 10**9
            gates[0].accept(gates[0].decide(SCENE, stamp_ns), SCENE, stamp_ns)
    assert paused[0].state()["tau"] == pytest.approx(still[0].state()["tau"])


def test_first_tubelet_and_the_one_after_a_reset_are_encoded():
    gate = SurpriseGate(GateConfig(), BLIND)
    for _ in range(2):
        first = gate.decide(SCENE, 0)
        assert (first.encode, first.reason) == (True, "first")
        assert math.isnan(first.novelty)
        gate.accept(first, SCENE, 0)
        assert not gate.decide(SCENE, 1).encode
        gate.reset()


def test_threshold_is_inclusive_and_reported():
    gate = gate_for(tau=expected(0.2))
    decision = gate.decide(changed(0.2001), 1)
    assert (decision.encode, decision.reason) == (True, "novelty")
    decision = gate.decide(changed(0.199), 1)
    assert (decision.encode, decision.reason, decision.threshold) == (False, "", expected(0.2))


def test_staleness_is_bounded_in_header_time():
    gate = SurpriseGate(GateConfig(max_skip_s=1.0), BLIND)
    gate.accept(gate.decide(SCENE, 5 * 10**9), SCENE, 5 * 10**9)
    assert not gate.decide(SCENE, 6 * 10**9 - 1).encode
    assert gate.decide(SCENE, 6 * 10**9).reason == "stale"


def test_zero_max_skip_never_forces():
    assert not gate_for(max_skip_s=0.0).decide(SCENE, 10**15).encode


def test_small_change_that_stays_is_encoded_in_time():
    """0.6 of tau: a tenth is allowed, so four tubelets make up the limit of two tau."""
    gate = gate_for(tau=1.0, drift_limit=1.999)
    by = 0.6 / expected(1.0)
    reasons = []
    for t in range(1, 6):
        features = changed(by)
        decision = gate.decide(features, t)
        gate.accept(decision, features, t)
        reasons.append(decision.reason)
    assert reasons == ["", "", "", "drift", ""]


def test_deciding_changes_nothing():
    gate = gate_for(tau=0.5)
    for step in range(1, 5):
        once, again = (gate.decide(changed(0.05 * step), step) for _ in range(2))
        assert once.novelty == again.novelty == pytest.approx(expected(0.05 * step), rel=1e-3)
        assert once.drift == again.drift


def test_event_is_told_once_at_its_onset_and_by_the_tau_of_the_user_in_budget_mode():
    gate = gate_for(mode="budget", tau=0.2, budget_fraction=0.01)
    told = []
    for t in range(1, 9):
        features = changed(0.5 if t in (3, 4, 5) else 0.0)
        decision = gate.decide(features, t * 10**8)
        told.append(gate.accept(decision, features, t * 10**8))
    assert told == [False, False, True, False, False, False, False, False]


def test_gate_switched_off_encodes_everything_and_measures_nothing():
    gate = OpenGate(GateConfig())
    for t in range(2):
        decision = gate.decide(SCENE, t)
        assert (decision.encode, decision.reason) == (True, "open")
        assert math.isnan(decision.novelty)
        assert not gate.accept(decision, SCENE, t)


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


def exposed(scene: np.ndarray, gain: float, warmth: float = 1.0) -> np.ndarray:
    return np.clip(np.round(scene * gain * np.array((warmth, 1.0, 1 / warmth))), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("gain", "warmth"), [(0.7, 1.0), (0.85, 1.1), (1.2, 1.0)])
def test_step_of_exposure_or_white_balance_is_no_event(engine, gain, warmth):
    scene = textured() // 2 + 20  # nothing clips
    stream = engine.open_stream()
    shown = [scene] * 4 + [exposed(scene, gain, warmth)] * 4
    results = [r for r in map(stream.push, frames_of(shown)) if r is not None]
    assert results[2].novelty < 0.05
    assert not any(r.onset or r.encoded for r in results[1:3])


def test_mains_flicker_is_no_event(engine):
    """Bands of a rolling shutter, 10 % deep, at another phase in each picture."""
    scene, rows = textured(), np.linspace(0, 2 * np.pi, 240)
    shown = [
        np.clip(np.round(scene * (1 + 0.1 * np.sin(rows * 2 + 0.1 * i))[:, None, None]), 0, 255).astype(np.uint8)
        for i in range(60)
    ]
    stream = engine.open_stream()
    results = [r for r in map(stream.push, frames_of(shown)) if r is not None]
    assert not any(r.onset for r in results)
    assert sum(r.encoded for r in results) <= 6, "drift may refresh, novelty must not"


def test_static_scene_with_noise_encodes_two_percent_at_most_beyond_the_refreshes(engine):
    rng, scene = np.random.default_rng(2), textured()
    stream, encoded, tubelets = engine.open_stream(), 0, 150
    for frame in frames_of([scene] * (2 * tubelets)):
        noisy = np.clip(np.round(frame.picture + rng.normal(0, 3, scene.shape)), 0, 255).astype(np.uint8)
        result = stream.push(type(frame)(noisy, frame.stamp_ns, frame.frame_id))
        encoded += result is not None and result.encoded and result.reason not in ("first", "stale")
    assert encoded <= 0.02 * tubelets


@pytest.mark.parametrize("seed", range(1, 6))
def test_cut_is_encoded_at_once(engine, seed):
    """Whatever came before, calm or motion, and however long."""
    rng = np.random.default_rng(seed)
    before = [textured(seed=0)] * 6 if seed % 2 else [textured(seed=100 + i) for i in range(6)]
    stream = engine.open_stream()
    results = [r for r in map(stream.push, frames_of(before + [textured(seed=int(rng.integers(1000)))] * 2)) if r]
    assert results[-1].encoded
    assert results[-1].novelty > 0.2


def test_cut_to_black_and_back_is_encoded(engine):
    black = np.zeros((240, 320, 3), np.uint8)
    stream = engine.open_stream()
    results = [r for r in map(stream.push, frames_of([textured()] * 4 + [black] * 2 + [textured()] * 2)) if r]
    assert [r.encoded for r in results] == [True, False, True, True]


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
