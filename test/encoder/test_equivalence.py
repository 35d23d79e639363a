"""The encoder's contract: what the cached step must equal, exactly enough (README, "What exactly it computes")."""

import oracle
import pytest
import torch
from reference_model import DEPTH, make_reference, random_clip, relative_error

from saccade_ros.encoder.model import StreamingEncoder
from saccade_ros.encoder.weights import load_encoder

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture
def no_grad():
    with torch.no_grad():
        yield


def stream(encoder: StreamingEncoder, clip: torch.Tensor) -> list:
    """Step through a clip on a fresh ring."""
    ring = encoder.new_ring()
    return [encoder.step([encoder.embed(tubelet)], [ring])[0] for tubelet in clip]


def newest_tokens(encoder: StreamingEncoder, clip: torch.Tensor) -> torch.Tensor:
    return torch.stack([out.tokens[-1] for out in stream(encoder, clip)])


def test_patch_embedding_is_transformers_convolution(reference, load):
    clip = random_clip(2)
    ours = torch.stack([load(2).embed(tubelet) for tubelet in clip])
    assert relative_error(ours, oracle.embed(reference, clip)) <= 1e-5


@pytest.mark.parametrize("window", [1, 2, 5])
def test_full_recompute_is_transformers_bidirectional_encoder_on_the_window(reference, load, window):
    clip = random_clip(2 * window + 1)
    for n, out in enumerate(stream(load(window, recompute=window), clip)):
        seen = clip[max(0, n - window + 1) : n + 1]
        expected = oracle.clip_encoder(reference, seen)
        assert relative_error(out.tokens, expected) <= 1e-5
        assert relative_error(out.window, expected.mean(dim=(0, 1))) <= 1e-5
        assert relative_error(out.newest, expected[-1].mean(dim=0)) <= 1e-5


def test_warm_up_is_one_block_causal_pass_at_transformers_positions(reference, load):
    clip = random_clip(6)
    assert relative_error(newest_tokens(load(6), clip), oracle.masked_forward(reference, clip)) <= 1e-5


@pytest.mark.parametrize(("window", "recompute"), [(1, 1), (3, 1), (3, 2), (4, 3), (4, 4)])
def test_long_stream_is_the_cache_free_banded_oracle(reference, load, window, recompute):
    clip = random_clip(4 * window)
    expected = oracle.banded_stream(reference, clip, window, recompute)
    assert relative_error(newest_tokens(load(window, recompute), clip), expected) <= 1e-5


@pytest.mark.parametrize("head_width", [64, 80])
def test_single_layer_stream_is_the_clip_encoder_over_the_last_window(tmp_path, head_width):
    model = make_reference(depth=1, head_width=head_width)
    model.save_pretrained(tmp_path)
    window, clip = 3, random_clip(8)
    tokens = newest_tokens(load_encoder(str(tmp_path), window).encoder, clip)
    for n in range(len(clip)):
        expected = oracle.clip_encoder(model, clip[max(0, n - window + 1) : n + 1])[-1]
        assert relative_error(tokens[n], expected) <= 1e-5


def changes(tokens: torch.Tensor) -> torch.Tensor:
    """Relative change from each step to the next."""
    return (tokens[1:] - tokens[:-1]).norm(dim=(1, 2)) / tokens[:-1].norm(dim=(1, 2))


def test_static_scene_settles_once_the_receptive_field_has_filled(load):
    window = 3
    receptive_field = DEPTH * (window - 1) + 1
    still = random_clip(1).expand(receptive_field + 2 * window, -1, -1, -1, -1)
    assert changes(newest_tokens(load(window), still))[receptive_field:].max() <= 1e-6


def test_static_scene_never_settles_at_absolute_positions(reference):
    """Guards the quirk: with tiled angles, positions are not relative, so a stream's age would show."""
    window = 3
    still = random_clip(1).expand(DEPTH * (window - 1) + 1 + 2 * window, -1, -1, -1, -1)
    drifting = changes(oracle.banded_stream(reference, still, window, absolute=True))
    assert drifting[DEPTH * (window - 1) + 1 :].min() > 1e-3


def test_reset_stream_is_a_fresh_stream_to_the_bit(load):
    encoder, clip = load(3, 2), random_clip(7)
    ring = encoder.new_ring()
    for tubelet in random_clip(5, seed=9):
        encoder.step([encoder.embed(tubelet)], [ring])
    ring.reset()
    again = torch.stack([encoder.step([encoder.embed(t)], [ring])[0].tokens[-1] for t in clip])
    assert torch.equal(again, newest_tokens(encoder, clip))


def test_interleaved_streams_are_separate_streams_to_the_bit(load):
    encoder, clips = load(3), [random_clip(7, seed) for seed in range(3)]
    rings = [encoder.new_ring() for _ in clips]
    mixed: list[list[torch.Tensor]] = [[], [], []]
    for n in range(7):
        for clip, ring, tokens in zip(clips, rings, mixed, strict=True):
            tokens.append(encoder.step([encoder.embed(clip[n])], [ring])[0].tokens[-1])
    for clip, tokens in zip(clips, mixed, strict=True):
        assert torch.equal(torch.stack(tokens), newest_tokens(encoder, clip))


def test_streams_of_different_age_share_a_batch(load):
    """Tolerance, not bits: a matrix product over more rows may sum in another order."""
    encoder, clips, ages = load(3, 2), [random_clip(9, seed) for seed in range(3)], [0, 1, 5]
    rings = [encoder.new_ring() for _ in clips]
    for clip, ring, age in zip(clips, rings, ages, strict=True):
        for tubelet in clip[:age]:
            encoder.step([encoder.embed(tubelet)], [ring])
    for step in range(4):
        patches = [encoder.embed(clip[age + step]) for clip, age in zip(clips, ages, strict=True)]
        together = encoder.step(patches, rings)
        for out, clip, age in zip(together, clips, ages, strict=True):
            assert relative_error(out.tokens[-1], newest_tokens(encoder, clip[: age + step + 1])[-1]) <= 1e-5


def test_same_clip_twice_gives_the_same_bytes(load):
    clip = random_clip(7)
    assert torch.equal(newest_tokens(load(3), clip), newest_tokens(load(3), clip))


def test_thousands_of_steps_stay_on_the_oracle(reference, load):
    """A stream has no age: after many windows it equals one that began a receptive field ago."""
    window = 2
    encoder, field = load(window), DEPTH * (window - 1) + 1
    clip = random_clip(field)
    ring = encoder.new_ring()
    noise = [encoder.embed(tubelet) for tubelet in random_clip(8, seed=3)]
    for n in range(400):
        encoder.step([noise[n % len(noise)]], [ring])
    for tubelet in clip:
        aged = encoder.step([encoder.embed(tubelet)], [ring])[0].tokens[-1]
    prefix = torch.cat([random_clip(8, seed=3)[-window:], clip])
    assert relative_error(aged, oracle.banded_stream(reference, prefix, window)[-1]) <= 1e-5
