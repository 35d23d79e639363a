"""The pipeline end to end, without ROS: exactness under the gate, reuse, epochs, accounts."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from scenes import PERIOD_NS, frames_of, textured, tiny_config

from saccade_ros.backends import load_backend
from saccade_ros.config import BackendConfig, ConfigError, EncoderConfig, GateConfig, TokensConfig
from saccade_ros.frames import EmbeddingResult, Frame, Picture
from saccade_ros.measure.metrics import centred_cosine
from saccade_ros.pipeline import Pipeline, explain_uncalibrated
from saccade_ros.vision.preprocess import tubelet_pixels


def lively(count: int, seed: int = 0) -> list[Picture]:
    """Pictures that change now and then: each holds for one to eight frames."""
    rng = np.random.default_rng(seed)
    pictures: list[Picture] = []
    while len(pictures) < count:
        pictures += [textured(seed=int(rng.integers(1 << 30)))] * int(rng.integers(1, 9))
    return pictures[:count]


def run(pipeline: Pipeline, pictures: list[Picture]) -> list[EmbeddingResult]:
    stream = pipeline.open_stream()
    results = [stream.push(frame) for frame in frames_of(pictures)]
    return [result for result in results if result is not None]


def vectors(results: list[EmbeddingResult]) -> np.ndarray:
    return np.stack([result.vector for result in results])


@pytest.fixture(scope="module")
def ungated() -> Pipeline:
    return Pipeline(tiny_config(gate=GateConfig(enabled=False)))


@pytest.fixture(scope="module")
def gated() -> Pipeline:
    return Pipeline(tiny_config(gate=GateConfig(tau=0.15)))


def test_gate_that_always_opens_equals_the_plain_stream_to_the_bit(ungated):
    pictures = lively(40)
    always = Pipeline(tiny_config(gate=GateConfig(tau=0.0)))
    assert np.array_equal(vectors(run(always, pictures)), vectors(run(ungated, pictures)))


@dataclass(frozen=True)
class Jpeg:
    """sensor_msgs/CompressedImage."""

    data: bytes
    format: str = "jpeg"


def test_jpegs_are_seen_as_their_pictures_are_and_the_view_is_in_their_own_pixels(ungated):
    """However few of their pixels are decoded: a fourth of each side here, for an input of 128."""
    pictures = [cv2.resize(picture, (1280, 720)) for picture in lively(16)]
    jpegs = [Jpeg(cv2.imencode(".jpg", p[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()) for p in pictures]
    expected, stream = run(ungated, pictures), ungated.open_stream()
    results = [stream.push(Frame(jpeg, n * PERIOD_NS)) for n, jpeg in enumerate(jpegs)][1::2]
    assert centred_cosine(vectors(results), vectors(expected)).min() > 0.99
    assert results[0].view == expected[0].view
    assert results[0].view.height == pytest.approx(720 * 128 / 146)


def steps_by_hand(
    pipeline: Pipeline, pictures: list[Picture], results: list[EmbeddingResult], holds: bool
) -> np.ndarray:
    """Step over the encoded tubelets, with a hold for each reused one where asked for, until it fills the window."""
    state, found, skipped = pipeline.backend.new_state(), [], 0
    for result in results:
        if not result.encoded:
            skipped += 1
            continue
        for _ in range(min(skipped, pipeline.backend.info.window - 1) if holds else 0):
            state.hold()
        older, newer = pictures[2 * result.tubelet_index : 2 * result.tubelet_index + 2]
        found.append(state.step(pipeline.backend.embed(tubelet_pixels(older, newer, 128, "crop")).patches))
        skipped = 0
    return np.stack(found)


def test_gated_stream_equals_steps_over_the_kept_tubelets_that_stand_for_the_skipped_ones(gated):
    """Time goes on in the cache: the newest tubelet in it stands for each one that is reused."""
    pictures = lively(80)
    results = run(gated, pictures)
    kept = [result for result in results if result.encoded]
    assert 5 < len(kept) < len(results) - 5
    assert max(r.reuse_count for r in results) >= gated.backend.info.window, "holds are bounded"
    assert np.array_equal(vectors(kept), steps_by_hand(gated, pictures, results, holds=True))
    assert not np.array_equal(vectors(kept), steps_by_hand(gated, pictures, results, holds=False))


def test_gated_stream_of_an_encoder_that_cannot_hold_equals_the_ungated_one_over_the_kept_tubelets():
    """With recompute > 1 skipped tubelets leave the cache untouched: time is event time."""
    encoder = EncoderConfig(model="tiny", window=3, recompute=2)
    pipeline, pictures = Pipeline(tiny_config(encoder=encoder, gate=GateConfig(tau=0.15))), lively(80)
    results = run(pipeline, pictures)
    kept = [result for result in results if result.encoded]
    assert 5 < len(kept) < len(results) - 5
    assert not pipeline.backend.info.holds
    assert np.array_equal(vectors(kept), steps_by_hand(pipeline, pictures, results, holds=False))


def test_reused_embedding_is_the_last_encoded_one_and_says_so(gated):
    results = run(gated, [textured()] * 8 + [textured(seed=5)] * 8)
    assert [r.encoded for r in results] == [True, False, False, False, True, False, False, False]
    assert [r.reuse_count for r in results] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert all(np.array_equal(r.vector, results[0].vector) for r in results[:4])
    assert not np.array_equal(results[4].vector, results[0].vector)
    assert {r.encoded_stamp_ns for r in results[4:]} == {results[4].stamp_ns}
    assert [r.window_fill for r in results] == [1, 1, 1, 1, 3, 3, 3, 3], (
        "of the embedding: its first one stood for four"
    )
    assert all(r.encode_ms == 0 for r in results if not r.encoded)
    assert all(r.novelty == 0 for r in results[1:4])
    assert all(0 < r.novelty < r.novelty_threshold for r in results[5:]), "the window still changes after a cut"


def test_tokens_computed_are_counted_by_result_and_stream(gated):
    stream = gated.open_stream()
    assert stream.computed_share == 0
    results = [r for _, r in stream.run(frames_of([textured()] * 8))]
    assert [(r.tokens_computed, r.tokens) for r in results] == [(64, 64), (0, 64), (0, 64), (0, 64)]
    assert [(r.computed_mask.shape, r.computed_mask.all()) for r in results[:2]] == [((8, 8), True), ((8, 8), False)]
    assert (stream.tokens_computed, stream.computed_share) == (64, 0.25)


def test_same_frames_twice_give_the_same_bytes(gated):
    pictures = lively(30)
    assert vectors(run(gated, pictures)).tobytes() == vectors(run(gated, pictures)).tobytes()


def test_time_jump_makes_a_fresh_stream(gated):
    pictures = lively(20)
    stream = gated.open_stream()
    for frame in frames_of(lively(13, seed=4), start_ns=10**12):
        stream.push(frame)
    after = [r for r in (stream.push(frame) for frame in frames_of(pictures)) if r is not None]
    assert {r.stream_epoch for r in after} == {1}
    assert np.array_equal(vectors(after), vectors(run(gated, pictures)))
    assert math.isnan(after[0].novelty)


def test_streams_share_the_model_and_nothing_else(gated):
    clips = [lively(24, seed) for seed in range(2)]
    streams = [gated.open_stream() for _ in clips]
    mixed: list[list[EmbeddingResult]] = [[], []]
    for pair in zip(*(frames_of(clip) for clip in clips), strict=True):
        for stream, frame, results in zip(streams, pair, mixed, strict=True):
            if (result := stream.push(frame)) is not None:
                results.append(result)
    for clip, results in zip(clips, mixed, strict=True):
        assert np.array_equal(vectors(results), vectors(run(gated, clip)))


def test_requested_reset_empties_the_cache(gated):
    stream = gated.open_stream()
    frames = list(frames_of([textured()] * 8))
    for frame in frames[:5]:
        stream.push(frame)
    stream.reset()
    results = [stream.push(frame) for frame in frames[5:]]
    assert (results[1].encoded, results[1].stream_epoch, results[1].window_fill) == (True, 1, 1)
    assert stream.ledger.dropped == {"reset": 1}


def test_new_threshold_takes_effect_at_the_next_tubelet():
    stream = Pipeline(tiny_config(gate=GateConfig(tau=10.0, event_change=10.0))).open_stream()
    frames = list(frames_of(lively(12)))
    first = [r for r in map(stream.push, frames[:8]) if r is not None]
    stream.set_gate(GateConfig(tau=0.0))
    then = [r for r in map(stream.push, frames[8:]) if r is not None]
    assert [r.encoded for r in first + then] == [True, False, False, False, True, True]
    assert [r.novelty_threshold for r in then] == [0.0, 0.0]


def test_every_frame_is_used_or_dropped_or_pending(gated):
    stream = gated.open_stream()
    for frame in frames_of(lively(21)):
        stream.push(frame)
    assert (stream.ledger.received, stream.ledger.used, stream.ledger.pending) == (21, 20, 1)


@pytest.mark.parametrize(
    "picture",
    [
        np.full((8, 8, 3), np.nan, np.float32),
        np.zeros((8, 8), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
    ],
)
def test_what_is_no_rgb_picture_is_refused_by_name(gated, picture):
    with pytest.raises(ValueError, match="give RGB uint8"):
        gated.open_stream().push(Frame(picture, 0))


@pytest.mark.parametrize("gate", [GateConfig(enabled=False), GateConfig(tau=0.15)])
def test_step_that_fails_leaves_the_stream_as_it_was(gate):
    """The tubelet is lost and counted; the ones after it come out as if it had never been."""
    pipeline = Pipeline(tiny_config(gate=gate))
    pictures = lively(24)
    stream = pipeline.open_stream()
    results = []
    layer = pipeline.backend._encoder.layers[2]
    for i, frame in enumerate(frames_of(pictures)):
        if i == 13:  # completes the 7th tubelet, with the ring full
            hook = layer.register_forward_hook(lambda *_: (_ for _ in ()).throw(MemoryError("no memory")))
            with pytest.raises(MemoryError):
                stream.push(frame)
            hook.remove()
        elif (result := stream.push(frame)) is not None:
            results.append(result)
    survivors = [frame for i, frame in enumerate(frames_of(pictures)) if i not in (12, 13)]
    fresh = pipeline.open_stream()
    expected = [result for result in map(fresh.push, survivors) if result is not None]
    assert np.array_equal(vectors(results), vectors(expected))
    assert [(r.reason, r.onset, r.reuse_count) for r in results] == [
        (r.reason, r.onset, r.reuse_count) for r in expected
    ]
    assert np.array_equal([r.novelty for r in results], [r.novelty for r in expected], equal_nan=True)
    assert stream.ledger.dropped == {"encoder_error": 2}


@pytest.mark.parametrize("enabled", [True, False])
def test_weights_with_nan_are_an_error_not_an_embedding(enabled):
    pipeline = Pipeline(tiny_config(gate=GateConfig(enabled=enabled)))
    pipeline.backend._encoder.layers[0].norm1.weight[0] = math.nan
    with pytest.raises(ArithmeticError, match="NaN or infinite"):
        pipeline.warm_up()
    with pytest.raises(ArithmeticError, match="NaN or infinite"):
        run(pipeline, [textured()] * 2)


@pytest.mark.parametrize(("recompute", "pooling"), [(1, "newest"), (1, "window"), (2, "window"), (3, "newest")])
def test_shadow_evaluation_changes_nothing_to_the_bit(recompute, pooling):
    """All skipped tubelets evaluated, or none: same decisions, same bytes, from the warm-up to many windows on."""
    encoder = EncoderConfig(model="tiny", window=3, recompute=recompute, pooling=pooling)
    pipeline = Pipeline(tiny_config(encoder=encoder, gate=GateConfig(tau=0.15, shadow_rate=1.0)))
    pictures = lively(80)
    plain, stream, evaluated = run(pipeline, pictures), pipeline.open_stream(), []
    for frame in frames_of(pictures):
        if (result := stream.push(frame)) is not None:
            evaluated.append(result)
            if stream.shadow_due:
                stream.evaluate_shadow()
    assert sum(r.encoded for r in plain) > 9
    assert stream.report()["shadow_evaluations"] == sum(not r.encoded for r in plain) > 9
    assert [r.encoded for r in evaluated] == [r.encoded for r in plain]
    assert vectors(evaluated).tobytes() == vectors(plain).tobytes()


def test_shadow_evaluation_that_fails_changes_nothing_either():
    pipeline = Pipeline(tiny_config(gate=GateConfig(tau=0.15, shadow_rate=1.0)))
    pictures, stream, results = lively(60), pipeline.open_stream(), []
    for frame in frames_of(pictures):
        if (result := stream.push(frame)) is not None:
            results.append(result)
            if stream.shadow_due:
                hook = pipeline.backend._encoder.layers[2].register_forward_hook(lambda *_: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    stream.evaluate_shadow()
                hook.remove()
    assert vectors(results).tobytes() == vectors(run(pipeline, pictures)).tobytes()


def test_shadow_evaluation_compares_the_reused_embedding_with_the_one_the_gate_withheld():
    """On the gated stream's own cache: what it would have published had the gate opened."""
    pipeline = Pipeline(tiny_config(gate=GateConfig(tau=10.0, event_change=10.0, max_skip_s=0.0, shadow_rate=1.0)))
    first, then = [textured()] * 2, [textured(seed=1)] * 2
    stream = pipeline.open_stream()
    results = [r for r in map(stream.push, frames_of(first + then)) if r is not None]
    assert [r.encoded for r in results] == [True, False]
    stream.evaluate_shadow()
    opened = run(Pipeline(tiny_config(gate=GateConfig(enabled=False))), first + then)
    reused, fresh = stream.shadow._pairs[0]
    assert np.array_equal(reused, opened[0].vector)
    assert np.array_equal(fresh, opened[1].vector)


def test_only_a_skipped_tubelet_is_evaluated_in_the_shadow_and_only_once():
    pipeline = Pipeline(tiny_config(gate=GateConfig(shadow_rate=1.0)))
    stream = pipeline.open_stream()
    for frame in frames_of([textured()] * 4):
        assert not stream.shadow_due
        stream.push(frame)
    assert stream.shadow_due
    stream.evaluate_shadow()
    assert not stream.shadow_due
    with pytest.raises(RuntimeError, match="ask shadow_due first"):
        stream.evaluate_shadow()


def test_gate_calibrated_for_another_encoder_is_refused_with_the_remedy():
    with pytest.raises(ConfigError, match="run `saccade calibrate` with this encoder"):
        Pipeline(tiny_config(gate=GateConfig(calibrated_for="vitl-256:0123:fp32")))
    encoder_id = Pipeline(tiny_config()).backend.info.encoder_id
    Pipeline(tiny_config(gate=GateConfig(calibrated_for=encoder_id)))


def test_budget_is_held_by_the_whole_engine():
    """400 tubelets that all differ, at 12.5 a second; a quarter may be encoded."""
    rng, scene = np.random.default_rng(0), textured()
    pipeline = Pipeline(tiny_config(gate=GateConfig(mode="budget", budget_fraction=0.25)))
    pictures = [np.roll(scene, int(shift), axis=1) for shift in np.cumsum(rng.integers(0, 9, 800))]
    results = run(pipeline, pictures)
    assert sum(r.encoded for r in results[25:]) / 375 == pytest.approx(0.25, rel=0.1)


def test_budget_is_of_tokens_where_tokens_are_selected():
    """400 tubelets of a still scene with small objects that jump about: far more than a quarter are encoded in part."""
    rng, scene, objects = np.random.default_rng(0), textured(), textured(seed=3)
    pictures = []
    for _ in range(800):
        picture = scene.copy()
        for top, left in zip(rng.integers(0, 210, 3), rng.integers(0, 290, 3), strict=True):
            picture[top : top + 30, left : left + 30] = objects[top : top + 30, left : left + 30]
        pictures.append(picture)
    gate = GateConfig(mode="budget", budget_fraction=0.25)
    results = run(Pipeline(tiny_config(gate=gate, tokens=TokensConfig())), pictures)[25:]
    assert sum(r.tokens_computed for r in results) / (375 * 64) == pytest.approx(0.25, rel=0.1)
    assert sum(r.encoded for r in results) / 375 > 0.4


@pytest.mark.parametrize(
    ("encoder", "cause"),
    [
        ({"recompute": 2}, "encoder.recompute is 2, and a sparse step needs 1"),
        ({"window": 1}, "encoder.window is 1, and a sparse step starts from the tubelet before"),
        ({"merge": 4}, "encoder.merge is 4, and merged tokens cannot be kept"),
    ],
)
def test_selection_that_the_encoder_cannot_follow_is_told_once_with_the_cause(encoder, cause, caplog):
    settings = EncoderConfig(**{"model": "tiny", "window": 3, **encoder})
    pipeline = Pipeline(tiny_config(encoder=settings, tokens=TokensConfig()))
    run(pipeline, lively(8))
    run(pipeline, lively(8))
    (told,) = caplog.messages
    assert cause in told
    assert "all 64 tokens" in told
    Pipeline(tiny_config(encoder=settings))
    Pipeline(tiny_config(tokens=TokensConfig()))
    assert len(caplog.messages) == 1, "nothing is selected, or the encoder follows"


def test_novelty_of_each_patch_comes_with_its_place(gated):
    scene, appeared = textured(), textured()
    appeared[60:90, 80:110] = (200, 30, 30)
    result = run(gated, [scene, scene, appeared, appeared])[1]
    assert result.onset
    assert result.patch_novelty.shape == (8, 8)
    row, column = np.unravel_index(int(result.patch_novelty.argmax()), (8, 8))
    view = result.view
    assert 60 <= view.top + (row + 0.5) * view.height / 8 <= 90
    assert 80 <= view.left + (column + 0.5) * view.width / 8 <= 110


def test_embeddings_have_length_one_when_asked():
    pipeline = Pipeline(tiny_config(encoder=EncoderConfig(model="tiny", window=2, normalize=True)))
    assert np.allclose(np.linalg.norm(vectors(run(pipeline, lively(6))), axis=1), 1, atol=1e-6)


def test_full_lookback_with_window_pooling_forgets_all_but_the_window():
    """The one setting that is "the encoder over the last W tubelets", whatever came before."""
    exact = EncoderConfig(model="tiny", window=3, recompute=3, pooling="window")
    pipeline = Pipeline(tiny_config(encoder=exact, gate=GateConfig(enabled=False)))
    pictures = lively(20)
    assert np.allclose(run(pipeline, pictures)[-1].vector, run(pipeline, pictures[-6:])[-1].vector, atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_lower_precision_stays_close_to_fp32_and_is_named(ungated, precision):
    """Centred: random weights make plain cosine look falsely good."""
    pictures = lively(24)
    reduced = Pipeline(
        tiny_config(gate=GateConfig(enabled=False), backend=BackendConfig(precision=precision, threads=1))
    )
    assert reduced.backend.info.precision == precision
    assert reduced.backend.info.encoder_id == ungated.backend.info.encoder_id.replace(":fp32:", f":{precision}:")
    assert centred_cosine(vectors(run(reduced, pictures)), vectors(run(ungated, pictures))).min() > 0.99


def test_facts_name_the_weights():
    info = load_backend(EncoderConfig(model="tiny", window=3, seed=1), BackendConfig()).info
    assert info.weights.startswith("RANDOM")
    assert info.weights_random
    weights, *settings = info.encoder_id.split(":")
    assert weights.rpartition("-")[0] == f"random-{info.weights_sha256[:12]}"
    assert settings == ["fp32", "128px-crop", "window3", "recompute1", "newest"]
    assert info.cache_bytes == 4 * (4 * 3 * 3 * 2 * 64 * 64 + 3 * 64 * 192 + 3 * 192)


def test_stamps_and_frame_id_pass_through_unchanged(gated):
    stream = gated.open_stream()
    frames = list(frames_of([textured()] * 4, start_ns=123_456_789, frame_id="left/optical"))
    results = [r for r in map(stream.push, frames) if r is not None]
    assert [(r.stamp_ns, r.frame_id) for r in results] == [
        (123_456_789 + PERIOD_NS, "left/optical"),
        (123_456_789 + 3 * PERIOD_NS, "left/optical"),
    ]


TRAINED = EncoderConfig(model="models/vitl")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (tiny_config(encoder=TRAINED), True),
        (tiny_config(encoder=EncoderConfig()), False),
        (tiny_config(encoder=TRAINED, gate=GateConfig(calibrated_for="vitl")), False),
        (tiny_config(encoder=TRAINED, gate=GateConfig(policy="even")), False),
        (tiny_config(encoder=TRAINED, tokens=TokensConfig()), False),
        (tiny_config(encoder=TRAINED, tokens=TokensConfig(), gate=GateConfig(mode="budget")), True),
    ],
)
def test_gate_that_decides_for_another_encoder_than_it_was_fitted_to_says_so(config, told):
    assert bool(explain_uncalibrated(config, weights_random=False)) == told
    assert explain_uncalibrated(config, weights_random=True) == ""
