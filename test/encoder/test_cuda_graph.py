"""Steps through captured graphs are plain steps. On a CPU the same static buffers are computed on eagerly."""

import gc
import weakref

import numpy as np
import pytest
import torch

from saccade_ros.backends.torch_backend import TorchBackend
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.encoder import cuda_graph
from saccade_ros.encoder.cuda_graph import GraphedEncoder
from saccade_ros.encoder.model import NonFiniteError, StreamingEncoder
from saccade_ros.encoder.weights import load_encoder

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")],
    ),
]


@pytest.fixture(params=DEVICES)
def encoder(request) -> StreamingEncoder:
    return load_encoder("tiny", window=3, recompute=2).encoder.prepare(torch.device(request.param), torch.float32)


def tubelets(encoder: StreamingEncoder, count: int, seed: int = 0) -> list[torch.Tensor]:
    clip = torch.randn(count, 2, 3, 128, 128, generator=torch.Generator().manual_seed(seed))
    return [encoder.embed(tubelet) for tubelet in clip]


def test_a_stream_through_graphs_is_the_plain_stream_to_the_bit(encoder):
    graphed, plain_ring, ring = GraphedEncoder(encoder), encoder.new_ring(), encoder.new_ring()
    for patches in tubelets(encoder, 10):
        (plain,), (captured,) = encoder.step([patches], [plain_ring]), graphed.step([patches], [ring])
        assert all(torch.equal(a, b) for a, b in zip(plain, captured, strict=True))
    assert ring.count == plain_ring.count == 10


def test_streams_of_different_age_slot_and_epoch_share_a_graph(encoder):
    graphed = GraphedEncoder(encoder)
    clips = [tubelets(encoder, 12, seed) for seed in range(3)]
    rings, plain_rings = [[encoder.new_ring() for _ in clips] for _ in range(2)]
    for ring in (rings[1], plain_rings[1]):
        for patches in clips[1][:4]:
            encoder.step([patches], [ring])
    for step in range(8):
        if step == 5:
            rings[2].reset()
            plain_rings[2].reset()
        patches = [clip[step + 4] for clip in clips]
        together, plain = graphed.step(patches, rings), encoder.step(patches, plain_rings)
        for ours, theirs in zip(together, plain, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_outputs_outlive_the_next_step(encoder):
    graphed, ring = GraphedEncoder(encoder), encoder.new_ring()
    for patches in tubelets(encoder, 4):
        graphed.step([patches], [ring])
    first = graphed.step([tubelets(encoder, 1, seed=1)[0]], [ring])[0].newest
    kept = first.clone()
    graphed.step([tubelets(encoder, 1, seed=2)[0]], [ring])
    assert torch.equal(first, kept)


def test_a_failed_step_leaves_no_trace(encoder):
    graphed, ring, twin = GraphedEncoder(encoder), encoder.new_ring(), encoder.new_ring()
    clip = tubelets(encoder, 6)
    for n, patches in enumerate(clip):
        if n == 4:
            with pytest.raises(NonFiniteError):
                graphed.step([torch.full_like(patches, torch.nan)], [ring])
        (after,), (never,) = graphed.step([patches], [ring]), encoder.step([patches], [twin])
        assert all(torch.equal(a, b) for a, b in zip(after, never, strict=True))


def test_graphs_are_kept_for_the_latest_sets_of_rings_only(encoder, monkeypatch):
    monkeypatch.setattr(cuda_graph, "MOST_GRAPHS", 3)
    graphed, patches = GraphedEncoder(encoder), tubelets(encoder, 1)
    for _ in range(5):
        graphed.step(patches, [encoder.new_ring()])
    assert len(graphed._steps) == 3


@pytest.mark.parametrize("device", DEVICES)
def test_a_stream_that_goes_takes_its_graphs_and_its_ring_along(device):
    """The first is that of the warm-up, which for ViT-L would keep 400 MB of the GPU for ever."""
    backend = TorchBackend(EncoderConfig(model="tiny", window=3), BackendConfig(device=device))
    state = backend.new_state()
    state.step(backend.embed(np.zeros((2, 3, 128, 128), np.float32)).patches)
    ring = weakref.ref(state._ring)
    del state
    gc.collect()
    assert ring() is None


def test_one_ring_twice_in_a_batch_is_refused(encoder):
    ring = encoder.new_ring()
    with pytest.raises(ValueError, match="given twice"):
        GraphedEncoder(encoder).step(tubelets(encoder, 2), [ring, ring])
