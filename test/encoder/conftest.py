"""A small random V-JEPA 2 of transformers, saved in its own format, and the same one loaded by us."""

from pathlib import Path

import pytest
import torch
from transformers import VJEPA2Config, VJEPA2Model

from saccade_ros.encoder.weights import load_encoder

DEPTH = 4
TOKENS = 64


def make_reference(depth: int = DEPTH, heads: int = 3, head_width: int = 64) -> VJEPA2Model:
    """Head width as in the released models; weights wide enough (sd 0.1) that attention matters."""
    torch.manual_seed(7)
    config = VJEPA2Config(
        hidden_size=heads * head_width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        crop_size=128,
        frames_per_clip=32,
        initializer_range=0.1,
        pred_hidden_size=24,
        pred_num_hidden_layers=1,
        pred_num_attention_heads=2,
        attn_implementation="eager",
    )
    model = VJEPA2Model(config).eval()
    for parameter in model.parameters():  # biases and norms start at constants, which would hide a mix-up
        parameter.data.add_(torch.randn_like(parameter) * 0.02)
    return model


@pytest.fixture(scope="session")
def reference() -> VJEPA2Model:
    return make_reference()


@pytest.fixture(scope="session")
def checkpoint(reference: VJEPA2Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    reference.save_pretrained(folder)
    return folder


@pytest.fixture
def load(checkpoint: Path):
    """Load the checkpoint with a window and a lookback."""

    def load_with(window: int, lookback: int = 1):
        return load_encoder(str(checkpoint), window, lookback).encoder

    return load_with


def random_clip(tubelets: int, seed: int = 0) -> torch.Tensor:
    """Normalised pixels of T tubelets with some structure in time: (T, 2, 3, 128, 128)."""
    generator = torch.Generator().manual_seed(seed)
    still = torch.randn(1, 1, 3, 128, 128, generator=generator)
    return still + 0.5 * torch.randn(tubelets, 2, 3, 128, 128, generator=generator)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest expected magnitude."""
    return float((actual - expected).abs().max() / expected.abs().max())
