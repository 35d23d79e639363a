"""A small random V-JEPA 2 of transformers, and clips for it."""

import torch
from transformers import VJEPA2Config, VJEPA2Model

DEPTH = 4


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
    return scatter(VJEPA2Model(config).eval())


def scatter(model):
    """Biases and norms start at constants, which would hide a mix-up."""
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.02)
    return model


def random_clip(tubelets: int, seed: int = 0) -> torch.Tensor:
    """Normalised pixels of T tubelets with some structure in time: (T, 2, 3, 128, 128)."""
    generator = torch.Generator().manual_seed(seed)
    still = torch.randn(1, 1, 3, 128, 128, generator=generator)
    return still + 0.5 * torch.randn(tubelets, 2, 3, 128, 128, generator=generator)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest expected magnitude."""
    return float((actual - expected).abs().max() / expected.abs().max())
