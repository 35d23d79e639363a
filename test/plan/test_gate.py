"""The gate's decisions: rules one by one, then scenes at the shipped defaults through the whole pipeline."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scenes import PERIOD_NS, frames_of, textured, tiny_config

from saccade_ros.config import EncoderConfig, GateConfig
from saccade_ros.frames import Observation, TokenPlan
from saccade_ros.pipeline import Pipeline, Stream
from saccade_ros.plan.change import PatchResponse
from saccade_ros.plan.gate import Gate, OpenGate, SurpriseGate
from saccade_ros.plan.novelty import SAFETY
from saccade_ros.plan.patch_change import COMPRESSION, PatchChange

# Patch embeddings of four patches that do not respond to illumination: only what they hold counts.
BLIND = PatchResponse(grey=np.zeros(8, np.float32), white=0.0)
SCENE = np.eye(4, 8, dtype=np.float32)


def changed(by: float, patch: int = 3) -> np.ndarray:
    """The scene with one patch changed by this share of its length, in a direction that is no gain."""
    features = SCENE.copy()
    features[patch, 7] += by
    return features


DENSE = TokenPlan.dense(4, "dense")
NO_PIXELS = np.empty((2, 3, 0, 0), np.float32)


def seen(features: np.ndarray, stamp_ns: int) -> Observation:
    return Observation(features, stamp_ns, NO_PIXELS)


def show(gate: Gate, features: np.ndarray, stamp_ns: int) -> TokenPlan:
    """Propose and commit one tubelet."""
    plan = gate.propose(seen(features, stamp_ns), DENSE)
    gate.commit(seen(features, stamp_ns), plan)
    return plan


WINDOW = 7
RATE = 2 / (WINDOW + 1)


def gate_for(**settings: object) -> SurpriseGate:
    """A gate that has encoded the scene at time 0, and is told of no event."""
    config = GateConfig(**{"loss_per_change": 1.0, "event_change": 10.0, **settings})
    gate = SurpriseGate(config, PatchChange(BLIND), WINDOW)
    show(gate, SCENE, 0)
    return gate


def expected(by: float) -> float:
    """Loss predicted for a change of one patch in four, new in this tubelet."""
    return SAFETY * RATE * by / 4


def test_novelty_is_the_predicted_loss_and_patches_tell_where():
    gate = gate_for()
    gate.propose(seen(changed(0.1), 1), DENSE)
    assert gate.measured.novelty == pytest.approx(expected(0.1), rel=1e-4)
    assert gate.measured.patches == pytest.approx([0, 0, 0, 0.1 - COMPRESSION], abs=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_a_finite_number_is_an_error(bad):
    with pytest.raises(ValueError, match="NaN or infinity"):
        gate_for().propose(seen(changed(bad), 1), DENSE)


def test_budget_takes_no_pause_before_a_reset_for_an_interval():
    still, paused = gate_for(mode="budget", tau_min=0.001), gate_for(mode="budget", tau_min=0.001)
    for gate, pause_s in ((still, 0), (paused, 3600)):
        for t in range(1, 40):
            if t == 20:
                gate.reset()
            show(gate, SCENE, t * PERIOD_NS + (t >= 20) * pause_s * 10**9)
    assert paused.state()["tau"] == pytest.approx(still.state()["tau"])


def test_first_tubelet_and_the_one_after_a_reset_are_encoded():
    gate = SurpriseGate(GateConfig(tau=0.3), PatchChange(BLIND), WINDOW)
    for _ in range(2):
        plan = show(gate, SCENE, 0)
        assert (plan.size, plan.reason) == (4, "first")
        assert math.isnan(gate.measured.novelty)
        assert (gate.measured.threshold, gate.measured.patches) == (0.3, None)
        assert gate.propose(seen(SCENE, 1), DENSE).size == 0
        gate.reset()


def test_first_tubelet_cannot_be_reused():
    gate = SurpriseGate(GateConfig(), PatchChange(BLIND), WINDOW)
    gate.propose(seen(SCENE, 0), DENSE)
    with pytest.raises(ValueError, match="compute all of the first tubelet"):
        gate.commit(seen(SCENE, 0), TokenPlan.reuse())


def test_gate_plans_all_tokens_or_none():
    gate = gate_for(tau=expected(0.2))
    opened, shut = gate.propose(seen(changed(0.3), 1), DENSE), gate.propose(seen(changed(0.1), 1), DENSE)
    assert opened.token_idx.tolist() == [0, 1, 2, 3]
    assert (shut.token_idx.tolist(), shut.reason) == ([], "")


def test_threshold_is_inclusive_and_reported():
    gate = gate_for(tau=expected(0.2))
    plan = gate.propose(seen(changed(0.2001), 1), DENSE)
    assert (plan.size, plan.reason) == (4, "novelty")
    plan = gate.propose(seen(changed(0.199), 1), DENSE)
    assert (plan.size, plan.reason, gate.measured.threshold) == (0, "", expected(0.2))


def test_replaced_config_holds_from_the_next_tubelet_on():
    gate = gate_for(tau=10.0)
    assert gate.propose(seen(changed(0.2), 1), DENSE).size == 0
    gate.config = GateConfig(tau=0.01)
    assert gate.propose(seen(changed(0.2), 1), DENSE).reason == "novelty"
    assert gate.measured.threshold == 0.01


def test_staleness_is_bounded_in_header_time():
    gate = SurpriseGate(GateConfig(max_skip_s=1.0), PatchChange(BLIND), WINDOW)
    show(gate, SCENE, 5 * 10**9)
    assert gate.propose(seen(SCENE, 6 * 10**9 - 1), DENSE).size == 0
    assert gate.propose(seen(SCENE, 6 * 10**9), DENSE).reason == "stale"


def test_zero_max_skip_never_forces():
    assert gate_for(max_skip_s=0.0).propose(seen(SCENE, 10**15), DENSE).size == 0


def test_small_change_that_stays_is_encoded_in_time():
    """It enters the window; half of what it will be once it is all there opens the gate."""
    gate = gate_for(tau=0.5 * SAFETY * 0.6 / 4)
    assert [show(gate, changed(0.6), t).reason for t in range(1, 5)] == ["", "", "novelty", ""]


def test_proposing_changes_nothing():
    """However often a tubelet is proposed whose step then fails: plans and measurements stay those of the others."""
    plain, disturbed = (gate_for(tau=0.05, mode="budget", event_change=0.3) for _ in range(2))
    for t in range(1, 9):
        for by in (9.0, 0.3, 0.0):
            disturbed.propose(seen(changed(by), t * PERIOD_NS + 1), DENSE)
        plans = [show(gate, changed(0.05 * t), t * PERIOD_NS) for gate in (plain, disturbed)]
        assert plans[0].reason == plans[1].reason
        assert plain.measured[:2] == disturbed.measured[:2]
        assert (plain.onset, plain.state()) == (disturbed.onset, disturbed.state())


def test_what_counts_is_what_was_computed_in_the_end():
    """A caller that encodes more than was planned, as the studies' warm-up does, moves the reference."""
    gate = gate_for(tau=10.0)
    assert gate.propose(seen(changed(0.5), 1), DENSE).size == 0
    gate.commit(seen(changed(0.5), 1), DENSE)
    gate.propose(seen(changed(0.5), 2), DENSE)
    assert gate.measured.patches is not None
    assert gate.measured.patches.max() == 0


def test_event_is_told_and_encoded_once_at_its_onset_however_little_it_costs():
    gate = gate_for(tau=100.0, event_change=0.3)
    told = []
    for t in range(1, 9):
        plan = show(gate, changed(0.5 if t in (3, 4, 5) else 0.0), t * 10**8)
        assert plan.reason == ("event" if gate.onset else "")
        told.append(gate.onset)
    assert told == [False, False, True, False, False, False, False, False]


def test_what_has_moved_on_leaves_no_ghost_that_hides_the_next_event():
    gate = gate_for(tau=100.0, event_change=0.3)
    told = []
    for t in range(1, 60):
        features = changed(0.5, patch=2)
        features[1, 7] += 0.5 if t >= 30 else 0.0
        gate.propose(seen(features, t * 10**8), DENSE)
        gate.commit(
            seen(features, t * 10**8), TokenPlan.reuse()
        )  # the picture that it is compared with stays the first
        told += [t] if gate.onset else []
    assert told == [1, 30]


def test_gate_learns_what_reuse_costs():
    gate, untaught = gate_for(), gate_for()
    gate.propose(seen(changed(0.5), 1), DENSE)
    gate.learn(3 * expected(0.5) / SAFETY)
    for each in (gate, untaught):
        each.propose(seen(changed(0.5), 1), DENSE)
    assert gate.measured.novelty > 1.2 * untaught.measured.novelty
    assert gate.state()["loss_answers"] == 1


def test_gate_switched_off_keeps_each_plan_and_measures_nothing():
    gate = OpenGate(GateConfig())
    narrow = TokenPlan(np.array([1, 3]), "dense")
    for plan in (DENSE, narrow):
        kept = gate.propose(seen(SCENE, 0), plan)
        gate.commit(seen(SCENE, 0), kept)
        assert (kept.token_idx.tolist(), kept.reason) == (plan.token_idx.tolist(), "open")
        assert math.isnan(gate.measured.novelty)
        assert math.isnan(gate.measured.threshold)
        assert (gate.measured.patches, gate.onset) == (None, False)


# Scenes, at the shipped defaults, through the whole pipeline.


@pytest.fixture(scope="module", params=["tiny", "vits"])
def pipeline(request) -> Pipeline:
    """Both grids: 8 x 8 patches of 128 px, 16 x 16 of 256 px."""
    return Pipeline(tiny_config(encoder=EncoderConfig(model=request.param, window=2)))


def encoded_count(stream: Stream, pictures: list) -> int:
    results = [stream.push(frame) for frame in frames_of(pictures)]
    return sum(result.encoded for result in results if result is not None)


@pytest.mark.parametrize("brightness", [1.0, 0.2, 0.03])
def test_static_scene_with_sensor_noise_stays_calm(pipeline, brightness):
    rng, scene = np.random.default_rng(1), textured() * brightness
    noisy = [np.clip(np.round(scene + rng.normal(0, 2, scene.shape)), 0, 255).astype(np.uint8) for _ in range(40)]
    assert encoded_count(pipeline.open_stream(), noisy) == 1


def test_featureless_wall_with_sensor_noise_stays_calm(pipeline):
    """Mid grey is nearly zero after normalisation: a purely relative change would be all noise."""
    rng, wall = np.random.default_rng(1), np.full((240, 320, 3), 118.0)
    noisy = [np.clip(np.round(wall + rng.normal(0, 2, wall.shape)), 0, 255).astype(np.uint8) for _ in range(40)]
    assert encoded_count(pipeline.open_stream(), noisy) == 1


@pytest.mark.parametrize("place", [(60, 80), (117, 133), (180, 220)])
def test_small_mover_in_one_percent_of_the_picture_fires(pipeline, place):
    scene, side = textured(), int((0.01 * 240 * 240) ** 0.5)  # of the centre square that the encoder sees
    appeared, (y, x) = scene.copy(), place
    appeared[y : y + side, x : x + side] = (200, 30, 30)
    assert encoded_count(pipeline.open_stream(), [scene, scene, appeared, appeared]) == 2


def exposed(scene: np.ndarray, gain: float, warmth: float = 1.0) -> np.ndarray:
    return np.clip(np.round(scene * gain * np.array((warmth, 1.0, 1 / warmth))), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("gain", "warmth"), [(0.7, 1.0), (0.85, 1.1), (1.2, 1.0)])
def test_step_of_exposure_or_white_balance_is_no_event(pipeline, gain, warmth):
    scene = textured() // 2 + 20  # nothing clips
    stream = pipeline.open_stream()
    shown = [scene] * 4 + [exposed(scene, gain, warmth)] * 4
    results = [r for r in map(stream.push, frames_of(shown)) if r is not None]
    assert not any(r.onset for r in results)


def test_mains_flicker_is_no_event(pipeline):
    """Bands of a rolling shutter, 10 % deep, at another phase in each picture."""
    scene, rows = textured(), np.linspace(0, 2 * np.pi, 240)
    shown = [
        np.clip(np.round(scene * (1 + 0.1 * np.sin(rows * 2 + 0.1 * i))[:, None, None]), 0, 255).astype(np.uint8)
        for i in range(60)
    ]
    stream = pipeline.open_stream()
    results = [r for r in map(stream.push, frames_of(shown)) if r is not None]
    assert not any(r.onset for r in results)
    assert sum(r.encoded for r in results) <= len(results) / 2


def test_static_scene_with_noise_encodes_two_percent_at_most_beyond_the_refreshes(pipeline):
    rng, scene = np.random.default_rng(2), textured()
    stream, encoded, tubelets = pipeline.open_stream(), 0, 150
    for frame in frames_of([scene] * (2 * tubelets)):
        noisy = np.clip(np.round(frame.image + rng.normal(0, 3, scene.shape)), 0, 255).astype(np.uint8)
        result = stream.push(replace(frame, image=noisy))
        encoded += result is not None and result.encoded and result.reason not in ("first", "stale")
    assert encoded <= 0.02 * tubelets


@pytest.mark.parametrize("seed", range(1, 6))
def test_cut_is_encoded_at_once(pipeline, seed):
    """Whatever came before, calm or motion, and however long."""
    rng = np.random.default_rng(seed)
    before = [textured(seed=0)] * 6 if seed % 2 else [textured(seed=100 + i) for i in range(6)]
    stream = pipeline.open_stream()
    results = [r for r in map(stream.push, frames_of(before + [textured(seed=int(rng.integers(1000)))] * 2)) if r]
    assert results[-1].encoded


def test_cut_to_black_and_back_is_encoded(pipeline):
    black = np.zeros((240, 320, 3), np.uint8)
    stream = pipeline.open_stream()
    results = [r for r in map(stream.push, frames_of([textured()] * 4 + [black] * 2 + [textured()] * 2)) if r]
    assert [r.encoded for r in results] == [True, False, True, True]


def test_pan_too_slow_for_any_single_step_fires_in_time(pipeline):
    """0.1 px a frame. A gate that compared with the previous tubelet would sleep for ever."""
    wide = textured(240, 400)
    pan = [wide[:, i // 10 : i // 10 + 320] for i in range(240)]
    stream = pipeline.open_stream()
    results = [r for r in (stream.push(frame) for frame in frames_of(pan)) if r is not None]
    fired = [r.tubelet_index for r in results if r.encoded]
    assert len(fired) >= 2
    assert fired[1] * 2 * PERIOD_NS < 10e9, "before max_skip_s would have forced it"
    assert len(fired) < len(results) / 2, "and it did sleep most of the time"
