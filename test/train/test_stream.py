"""The differentiable stream is the cached step, and gradients reach every part of an adapter."""

import pytest
import torch
from torch.nn.utils import parametrize

from saccade_ros.encoder.adapter import LowRank, target_layers
from saccade_ros.encoder.model import StreamingEncoder
from saccade_ros.encoder.weights import load_encoder
from saccade_ros.train.stream import clip_tokens, stream_tokens


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
