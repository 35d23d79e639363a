"""The student is our causal encoder, its losses are what they are called, and everything in it learns."""

import numpy as np
import pytest
import torch
from transformers import VJEPA2Model

from saccade_ros.backends import load_backend
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.encoder.model import patch_values
from saccade_ros.encoder.spec import ModelSpec
from saccade_ros.encoder.weights import save_transformers
from saccade_ros.studies.streamed import stream
from saccade_ros.train.cache import TargetBatch
from saccade_ros.train.stream import block_tokens
from saccade_ros.train.student import LossWeights, Student, Targets, cka, cosine_loss, make_targets

SPEC = ModelSpec("student", width=48, depth=2, heads=2, input_size=64)
CHANNELS = 6
PARTS = ["tokens", "pooled", "relational", "flow"]


def student(hidden: float = 0.5, seed: int = 0, spec: ModelSpec = SPEC) -> Student:
    return Student(spec, 4, CHANNELS, hidden, seed)


def example(clips: int = 3, tubelets: int = 3) -> tuple[torch.Tensor, Targets]:
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(clips, tubelets, *shape, generator=generator)

    return normal(2, 3, 64, 64), Targets(normal(CHANNELS), normal(16, CHANNELS), normal(16, 2).tanh())


def losses_of(model: Student, causal: bool = True, weights: LossWeights | None = None, seed: int = 1):
    pixels, targets = example()
    return model(pixels, targets, causal, weights or LossWeights(), torch.Generator().manual_seed(seed))


# What learns


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("hidden", [0.0, 0.5])
def test_gradients_reach_every_parameter(hidden, causal):
    model = student(hidden)
    sum(losses_of(model, causal).values()).backward()
    unreached = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    unused = {f"predictor.layers.patch_embed.{kind}" for kind in ("weight", "bias")}  # its input are tokens
    assert unreached == (unused if hidden else set())


def test_without_hidden_patches_there_is_no_predictor():
    model = student(hidden=0.0)
    assert not hasattr(model, "predictor")
    assert list(losses_of(model)) == PARTS
    hidden = student(hidden=0.5)
    assert list(losses_of(hidden)) == [*PARTS, "hidden"]
    assert sum(p.numel() for p in hidden.predictor.parameters()) > 0


def test_fraction_too_small_for_a_single_patch_hides_none():
    assert list(losses_of(student(hidden=0.05))) == PARTS


def test_same_seed_gives_the_same_student():
    first, again, other = (student(seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["encoder.patch_embed.weight"], other["encoder.patch_embed.weight"])


def test_weights_scale_their_parts():
    model, names = student(), [*PARTS, "hidden"]
    plain = losses_of(model, weights=LossWeights(1.0, 1.0, 1.0, 1.0, 1.0))
    scaled = losses_of(model, weights=LossWeights(0.5, 2.0, 0.0, 3.0, 4.0))
    for name, factor in zip(names, (0.5, 2.0, 0.0, 3.0, 4.0), strict=True):
        assert scaled[name].item() == pytest.approx(factor * plain[name].item())


def test_losses_are_those_of_the_tokens_by_hand():
    model = student(hidden=0.0)
    pixels, targets = example()
    losses = losses_of(model, weights=LossWeights(1.0, 1.0, 1.0, 1.0, 1.0))
    patches = model.encoder.patch_embed(patch_values(pixels, SPEC.patch_size))
    tokens = block_tokens(model.encoder, patches, causal=True)
    cosines = torch.cosine_similarity(model.to_dense(tokens), targets.dense, dim=-1)
    assert losses["tokens"].item() == pytest.approx(1 - cosines.mean().item(), abs=1e-5)
    embeddings = tokens.mean(dim=2)
    cosines = torch.cosine_similarity(model.to_pooled(embeddings), targets.pooled, dim=-1)
    assert losses["pooled"].item() == pytest.approx(1 - cosines.mean().item(), abs=1e-5)


def test_predictor_does_not_see_what_it_predicts():
    """Pixels of hidden patches change no prediction, nor any loss."""
    model, weights = student(), LossWeights()
    pixels, targets = example()
    order = torch.rand(3, 16, generator=torch.Generator().manual_seed(1)).argsort(dim=1)  # as the student draws it
    changed = pixels.clone()
    for clip, hidden in zip(changed, order[:, 8:], strict=True):
        for row, column in zip(hidden // 4, hidden % 4, strict=True):
            clip[..., 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 3.0
    first, other = (model(p, targets, True, weights, torch.Generator().manual_seed(1)) for p in (pixels, changed))
    assert {name: loss.item() for name, loss in first.items()} == {name: loss.item() for name, loss in other.items()}
    elsewhere = model(changed, targets, True, weights, torch.Generator().manual_seed(2))
    unchanged = model(pixels, targets, True, weights, torch.Generator().manual_seed(2))
    assert elsewhere["hidden"].item() != unchanged["hidden"].item()


# Losses by themselves


def vectors(seed: int, count: int = 200, width: int = 8) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_alignment_of_a_set_with_itself_is_one():
    assert cka(vectors(0), vectors(0)).item() == pytest.approx(1, abs=1e-5)


def test_alignment_does_not_see_rotation_scale_and_shift():
    rotation, _ = torch.linalg.qr(vectors(1, 8))
    assert cka(vectors(0), 5 * vectors(0) @ rotation + 3).item() == pytest.approx(1, abs=1e-4)


def test_alignment_of_independent_sets_is_near_zero():
    assert abs(cka(vectors(0), vectors(1)).item()) < 0.1
    assert abs(cka(vectors(0), vectors(1, width=20)).item()) < 0.1


def test_alignment_falls_as_noise_is_added():
    found = [cka(vectors(0), vectors(0) + noise * vectors(1)).item() for noise in (0.0, 0.5, 1.0, 3.0)]
    assert found == sorted(found, reverse=True)


def test_cosine_loss_is_zero_along_one_across_and_two_against():
    right = torch.tensor([[2.0, 0.0]])
    for other, loss in (([9.0, 0.0], 0), ([0.0, 1.0], 1), ([-1.0, 0.0], 2)):
        assert cosine_loss(right, torch.tensor([other])).item() == pytest.approx(loss, abs=1e-6)


# Targets on the student's grid


def batch(grid: int) -> TargetBatch:
    random = np.random.default_rng(0)
    dense = random.normal(size=(2, 3, grid, grid, CHANNELS)).astype(np.float16)
    flow = np.broadcast_to(np.array([4.0, -2.0], np.float16), (2, 3, 4, 4, 2))
    pictures = np.zeros((2, 3, 2, 64, 64, 3), np.uint8)
    return TargetBatch(pictures, dense.mean(axis=(2, 3)), dense, flow)


def test_targets_on_the_same_grid_are_the_cached_ones():
    found, cached = make_targets(batch(4), SPEC), batch(4)
    assert found.dense.numpy() == pytest.approx(cached.dense.reshape(2, 3, 16, CHANNELS).astype(np.float32))
    assert found.pooled.numpy() == pytest.approx(cached.pooled.astype(np.float32))


@pytest.mark.parametrize("grid", [1, 2, 7, 14])
def test_targets_of_another_grid_are_resampled_with_their_mean(grid):
    found, cached = make_targets(batch(grid), SPEC), batch(grid)
    assert found.dense.shape == (2, 3, 16, CHANNELS)
    if grid % 4 == 0 or grid == 1:
        assert found.dense.mean(dim=2).numpy() == pytest.approx(cached.pooled.astype(np.float32), abs=2e-3)


def test_resampling_keeps_rows_and_columns_apart():
    rows = np.broadcast_to(np.arange(8, dtype=np.float16)[:, None, None], (1, 1, 8, 8, 1))
    cached = TargetBatch(
        np.zeros((1, 1, 2, 64, 64, 3), np.uint8), rows.mean(axis=(2, 3)), rows, np.zeros((1, 1, 4, 4, 2))
    )
    dense = make_targets(cached, SPEC).dense.reshape(4, 4)
    assert (dense.diff(dim=0) > 1).all()
    assert dense.diff(dim=1).abs().max() < 1e-5


def test_motion_is_in_patches_and_squashed():
    flow = make_targets(batch(4), SPEC).flow
    assert flow.shape == (2, 3, 16, 2)
    assert flow[0, 0, 0].tolist() == pytest.approx(np.tanh(4 * np.array([4.0, -2.0]) / 16).tolist(), abs=1e-6)


# The saved student


@pytest.fixture
def saved(tmp_path):
    """A student with weights that matter, and the folder it was saved in."""
    model = student()
    for parameter in model.encoder.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)), alpha=0.1)
    save_transformers(SPEC, model.encoder.state_dict(), tmp_path / "student")
    return model, tmp_path / "student"


def trained_tokens(model: Student, pixels: torch.Tensor, causal: bool) -> torch.Tensor:
    patches = model.encoder.patch_embed(patch_values(pixels, SPEC.patch_size))
    with torch.no_grad():
        return block_tokens(model.encoder, patches, causal)


def test_student_as_trained_is_what_the_node_streams(saved):
    model, folder = saved
    pixels, _ = example(clips=2)
    backend = load_backend(EncoderConfig(model=str(folder), window=4), BackendConfig(name="torch", precision="fp32"))
    expected = trained_tokens(model, pixels, causal=True).mean(dim=2)
    for clip, embeddings in zip(pixels, expected, strict=True):
        streamed = stream(backend, clip.numpy()).vectors
        assert np.abs(streamed - embeddings.numpy()).max() <= 1e-5 * embeddings.abs().max().item()


def test_student_in_both_directions_is_what_transformers_computes(saved):
    model, folder = saved
    pixels, _ = example(clips=2)
    reference = VJEPA2Model.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = reference(pixels.flatten(1, 2), skip_predictor=True).last_hidden_state
    tokens = trained_tokens(model, pixels, causal=False).flatten(1, 2)
    assert (tokens - expected).abs().max() <= 1e-5 * expected.abs().max()
