"""A small V-JEPA 2.1 in the layout of the released `.pt` files, filled from a seed.

Names and shapes are those of facebookresearch/vjepa2, app/vjepa_2_1/models/vision_transformer.py; that model took this
dictionary with strict=True, and what it made of `pictures` is in fixtures/vjepa21_small.npz. Its depths are fixed at
12, 24, 40 and 48 layers, so the small one has 12.
"""

import numpy as np
import torch

WIDTH, DEPTH, MLP, PATCH = 128, 12, 512, 16
INPUT_SIZE = 128
TUBELETS = 3


def shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of the encoder."""
    found: dict[str, tuple[int, ...]] = {
        "img_mod_embed": (1, 1, WIDTH),
        "video_mod_embed": (1, 1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, 2, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        "patch_embed_img.proj.weight": (WIDTH, 3, 1, PATCH, PATCH),
        "patch_embed_img.proj.bias": (WIDTH,),
    }
    for i in range(4):
        found |= {f"norms_block.{i}.weight": (WIDTH,), f"norms_block.{i}.bias": (WIDTH,)}
    linears = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH)}
    linears |= {"mlp.fc1": (MLP, WIDTH), "mlp.fc2": (WIDTH, MLP)}
    for i in range(DEPTH):
        for name, shape in linears.items():
            found |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
        for name in ("norm1", "norm2"):
            found |= {f"blocks.{i}.{name}.weight": (WIDTH,), f"blocks.{i}.{name}.bias": (WIDTH,)}
    return found


def tensors() -> dict[str, torch.Tensor]:
    """Random values in which every tensor matters; numpy's frozen generator, so they never change."""
    random = np.random.RandomState(21)
    filled = {}
    for name, shape in sorted(shapes().items()):
        values = random.standard_normal(shape) * 0.1
        if "norm" in name and name.endswith("weight"):
            values += 1.0
        filled[name] = torch.from_numpy(values.astype(np.float32))
    return filled


def document(key: str = "ema_encoder") -> dict[str, object]:
    """What a released file holds: the wrappers' prefixes, and neighbours that must not be taken for the encoder."""
    wrapped = {f"module.backbone.{name}": tensor for name, tensor in tensors().items()}
    beside = {name: torch.zeros_like(tensor) for name, tensor in wrapped.items()}
    others = {"predictor": {"module.backbone.predictor_norm.weight": torch.zeros(4)}, "epoch": 1, "opt": {"state": {}}}
    return {"encoder": beside, key: wrapped, **others}


def pictures() -> torch.Tensor:
    """Normalised pixels of a clip: (T, 2, 3, H, W)."""
    random = np.random.RandomState(22)
    still = random.standard_normal((1, 1, 3, INPUT_SIZE, INPUT_SIZE))
    moving = random.standard_normal((TUBELETS, 2, 3, INPUT_SIZE, INPUT_SIZE))
    return torch.from_numpy((still + 0.5 * moving).astype(np.float32))
