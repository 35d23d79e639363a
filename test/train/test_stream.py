"""The differentiable streams are the cached step and the clip encoder, and gradients reach every part of an adapter."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import parametrize

from saccade_ros.encoder.adapter import LowRank, target_layers
from saccade_ros.encoder.model import StreamingEncoder
from saccade_ros.encoder.rope import Rotation, rotary_tables, rotate
from saccade_ros.encoder.weights import load_encoder
from saccade_ros.train.stream import block_tokens, clip_tokens, stream_tokens, window_tokens


def random_patches(encoder: StreamingEncoder, tubelets: int) -> torch.Tensor:
    shape = (tubelets, encoder.spec.tokens, encoder.spec.width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("window", [1, 2, 4])
def test_differentiable_stream_is_the_cached_step(window):
    encoder = load_encoder("tiny", window).encoder
    patches, ring = random_patches(encoder, 3 * window + 2), encoder.new_ring()
    expected = torch.stack([encoder.step([tubelet], [ring])[0].tokens[-1] for tubelet in patches])
    difference = (stream_tokens(encoder, patches) - expected).abs().max()
    assert difference <= 1e-5 * expected.abs().max()


def test_clip_tokens_are_those_of_the_step_that_recomputes_its_whole_window():
    encoder = load_encoder("tiny", 3, recompute=3).encoder
    patches, ring = random_patches(encoder, 7), encoder.new_ring()
    expected = torch.stack([encoder.step([tubelet], [ring])[0].tokens[-1] for tubelet in patches])[4:]
    difference = (clip_tokens(encoder, patches, 4) - expected).abs().max()
    assert difference <= 1e-5 * expected.abs().max()


def test_every_adapter_parameter_gets_a_gradient_and_no_base_weight_does():
    encoder = load_encoder("tiny", 2).encoder
    for linear in target_layers(encoder).values():
        parametrize.register_parametrization(linear, "weight", LowRank(linear, rank=2, alpha=2.0))
    lora = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    assert len(lora) == 2 * 2 * encoder.spec.depth
    patches = random_patches(encoder, 5)
    before = stream_tokens(encoder, patches).detach()
    optimizer = torch.optim.SGD(lora.values(), lr=0.1)
    for _ in range(2):  # the first update moves `up` off zero, and only then does `down` matter
        optimizer.zero_grad()
        (stream_tokens(encoder, patches) - before.roll(1, 0)).square().mean().backward()
        optimizer.step()
    assert {name for name, p in lora.items() if p.grad is None or not p.grad.abs().max() > 0} == set()
    assert {name for name, p in encoder.named_parameters() if name not in lora and p.grad is not None} == set()
    assert not torch.equal(stream_tokens(encoder, patches), before)


def test_untrained_adapter_changes_nothing():
    encoder = load_encoder("tiny", 2).encoder
    patches = random_patches(encoder, 3)
    before = stream_tokens(encoder, patches)
    for linear in target_layers(encoder).values():
        parametrize.register_parametrization(linear, "weight", LowRank(linear, rank=2, alpha=2.0))
    assert torch.equal(stream_tokens(encoder, patches), before)


# Many short clips at once


def random_blocks(encoder: StreamingEncoder, clips: int, tubelets: int) -> torch.Tensor:
    return random_patches(encoder, clips * tubelets).unflatten(0, (clips, tubelets))


def random_kept(encoder: StreamingEncoder, clips: int, count: int) -> torch.Tensor:
    order = torch.rand(clips, encoder.spec.tokens, generator=torch.Generator().manual_seed(4)).argsort(dim=1)
    return order[:, :count]


def restricted(encoder: StreamingEncoder, clip: torch.Tensor, kept: torch.Tensor, causal: bool) -> torch.Tensor:
    """Every token of a clip computed, with a mask that lets only the kept ones be attended to: (T, S, D)."""
    tubelets, tokens, _ = clip.shape
    time = torch.arange(tubelets).repeat_interleave(tokens)
    mask = torch.isin(torch.arange(tokens), kept).repeat(tubelets)[None] & ((time[:, None] >= time) | (not causal))
    table = rotary_tables(encoder.spec, encoder.window).query
    rotation = Rotation(*(part[:tubelets].flatten(0, 1) for part in table))
    x = clip.flatten(0, 1)
    for layer in encoder.layers:
        qkv = layer.attention.qkv(layer.norm1(x)).unflatten(-1, (3, encoder.spec.heads, -1))
        q, k, v = qkv.permute(1, 2, 0, 3)
        scores = rotate(q, rotation) @ rotate(k, rotation).mT / encoder.spec.head_width**0.5
        weights = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)
        x = x + layer.attention.proj((weights @ v).transpose(0, 1).flatten(1))
        x = x + layer.fc2(F.gelu(layer.fc1(layer.norm2(x))))
    return encoder.norm(x).unflatten(0, (tubelets, tokens))


@pytest.mark.parametrize("tubelets", [1, 3, 4])
def test_causal_blocks_are_the_stream_of_each_clip(tubelets):
    encoder = load_encoder("tiny", 4).encoder
    patches = random_blocks(encoder, 2, tubelets)
    expected = torch.stack([stream_tokens(encoder, clip) for clip in patches])
    difference = (block_tokens(encoder, patches, causal=True) - expected).abs().max()
    assert difference <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("tubelets", [1, 3, 4])
def test_full_blocks_are_the_clip_encoder_of_each_clip(tubelets):
    encoder = load_encoder("tiny", 4).encoder
    patches = random_blocks(encoder, 2, tubelets)
    expected = torch.stack([window_tokens(encoder, clip) for clip in patches])
    difference = (block_tokens(encoder, patches, causal=False) - expected).abs().max()
    assert difference <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("causal", [True, False])
def test_kept_patches_attend_to_each_other_only_at_their_own_positions(causal):
    encoder = load_encoder("tiny", 4).encoder
    patches, kept = random_blocks(encoder, 2, 3), random_kept(encoder, 2, 20)
    tokens = block_tokens(encoder, patches, causal, kept)
    assert tokens.shape == (2, 3, 20, 192)
    expected = torch.stack([restricted(encoder, c, k, causal)[:, k] for c, k in zip(patches, kept, strict=True)])
    assert (tokens - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_all_patches_kept_in_another_order_are_all_tokens_in_that_order():
    encoder = load_encoder("tiny", 4).encoder
    patches, kept = random_blocks(encoder, 2, 3), random_kept(encoder, 2, encoder.spec.tokens)
    whole = block_tokens(encoder, patches, causal=True)
    expected = torch.stack([clip[:, k] for clip, k in zip(whole, kept, strict=True)])
    difference = (block_tokens(encoder, patches, causal=True, kept=kept) - expected).abs().max()
    assert difference <= 1e-5 * expected.abs().max()


def test_hidden_patches_have_no_effect_at_all():
    encoder = load_encoder("tiny", 4).encoder
    patches, kept = random_blocks(encoder, 2, 3), random_kept(encoder, 2, 20)
    hidden = torch.ones(2, encoder.spec.tokens, dtype=torch.bool).scatter(1, kept, value=False)
    changed = torch.where(hidden[:, None, :, None], 100.0, patches)
    assert torch.equal(*(block_tokens(encoder, p, causal=True, kept=kept) for p in (patches, changed)))


def test_causal_blocks_do_not_see_later_tubelets_and_full_ones_do():
    encoder = load_encoder("tiny", 4).encoder
    patches = random_blocks(encoder, 1, 3)
    changed = patches.clone()
    changed[:, 2] = 1.0
    for causal in (True, False):
        first, other = (block_tokens(encoder, p, causal)[:, :2] for p in (patches, changed))
        assert torch.equal(first, other) == causal
