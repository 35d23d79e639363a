"""Baseline of the cached step: transformers' encoder over the whole window, for each new tubelet.

It is the encoder alone (no predictor), with SDPA, over a window as long as the full cache, at the
same threads, and in interleaved timing with ours.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from saccade_ros.default_model import locate
from saccade_ros.encoder.spec import ModelSpec


def make_reencoder(
    model: str, spec: ModelSpec, clip: Tensor, device: torch.device, dtype: torch.dtype
) -> Callable[[], object]:
    """Make a full encode of `clip`, (W, 2, 3, H, W); for a size, with random weights of that size."""
    from transformers import VJEPA2Config, VJEPA2Model

    folder = locate(model)
    if Path(folder).is_dir():
        reference = VJEPA2Model.from_pretrained(folder, attn_implementation="sdpa")
    else:
        config = VJEPA2Config(
            hidden_size=spec.width,
            num_hidden_layers=spec.depth,
            num_attention_heads=spec.heads,
            crop_size=spec.input_size,
            mlp_ratio=spec.mlp_width / spec.width,
        )
        reference = VJEPA2Model._from_config(config, attn_implementation="sdpa")
    reference.predictor = None  # its weights would only take memory
    reference.to(device, dtype).eval()
    frames = clip.flatten(0, 1)[None].to(device, dtype)  # (1, 2W, 3, H, W)

    @torch.inference_mode()
    def reencode() -> object:
        """Encode the whole window."""
        return reference(frames, skip_predictor=True)

    return reencode
