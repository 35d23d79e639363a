"""Make the small trained model on which docs/fidelity.md measures the causal adapter.

    python docs/small_model.py FOLDER CLIP...

A V-JEPA 2 encoder (4 layers, 192 wide, 64 px, 8 tubelets) learns to predict the pixels of masked patches. It needs no
download and takes minutes on two cores. It is no good encoder, but its weights were trained on real video, so that what
an adapter learns on one scene can help on another.
"""

import math
import sys

import torch
from torch import Tensor, nn
from transformers import VJEPA2Config, VJEPA2Model

from saccade_ros.config import load_config
from saccade_ros.recordings.clip import read_tubelets
from saccade_ros.train.views import MARGIN, random_view

SIZE, TUBELETS, PATCH, WIDTH = 64, 8, 16, 192
TOKENS = (SIZE // PATCH) ** 2  # per tubelet
STEPS, BATCH, LEARNING_RATE, WARM_UP_STEPS = 800, 16, 1e-3, 50
MASKED_FRACTION = 0.6
MAX_STRIDE = 8  # frames of the recording from one frame of a view to the next


def main(folder: str, paths: list[str]) -> None:
    """Train on the clips and save the model to `folder`, as transformers does."""
    torch.manual_seed(0)
    config = load_config(None, {"stream.fps": "0"})
    clips = [torch.from_numpy(read_tubelets(path, config, int(MARGIN * SIZE))).flatten(0, 1) for path in paths]
    model = VJEPA2Model(
        VJEPA2Config(
            hidden_size=WIDTH,
            num_hidden_layers=4,
            num_attention_heads=3,
            crop_size=SIZE,
            frames_per_clip=2 * TUBELETS,
            initializer_range=WIDTH**-0.5,  # less, and a model this narrow learns to look at other tubelets too late
            pred_hidden_size=24,
            pred_num_hidden_layers=1,
            pred_num_attention_heads=2,
        )
    )
    head, mask_token = nn.Linear(WIDTH, 2 * 3 * PATCH**2), nn.Parameter(torch.zeros(WIDTH))
    parameters = [*model.encoder.parameters(), *head.parameters(), mask_token]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05)
    for step in range(STEPS):
        warm = min(1.0, (step + 1) / WARM_UP_STEPS)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * warm * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        pixels = torch.stack([random_example(clips) for _ in range(BATCH)])  # (B, T, 2, 3, H, W)
        hidden_mask = random_mask()  # (B, T*S)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = head(encode(model, pixels, hidden_mask, mask_token))  # (B, T*S, 2*3*P*P)
        loss = (predicted.float() - patch_values(pixels))[hidden_mask].square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step} of {STEPS}: loss {loss.item():.3f}", flush=True)
    model.save_pretrained(folder)


def random_below(limit: int) -> int:
    """Draw a whole number from 0 to `limit` - 1."""
    return int(torch.randint(limit, ()))


def random_example(clips: list[Tensor]) -> Tensor:
    """Draw a part of a clip, at a random speed, in a random view: (T, 2, 3, H, W)."""
    frames, stride = clips[random_below(len(clips))], 1 + random_below(MAX_STRIDE)
    frame_idx = torch.arange(2 * TUBELETS) * stride + random_below(max(1, len(frames) - 2 * TUBELETS * stride))
    chosen = frames[frame_idx.clamp(max=len(frames) - 1)]  # (2T, 3, B, B)
    return random_view(chosen.unflatten(0, (-1, 2)), SIZE, TUBELETS, torch.default_generator)


def random_mask() -> Tensor:
    """Draw the patches to hide; in half of the examples the same ones in every tubelet. True = hidden, (B, T*S)."""
    same = torch.rand(BATCH, 1, TOKENS).expand(-1, TUBELETS, -1)  # (B, T, S)
    independent = torch.rand(BATCH, TUBELETS, TOKENS)
    return (torch.where(torch.rand(BATCH, 1, 1) < 0.5, same, independent) < MASKED_FRACTION).flatten(1)  # (B, T*S)


def encode(model: VJEPA2Model, pixels: Tensor, hidden_mask: Tensor, mask_token: Tensor) -> Tensor:
    """Encode clips, with `mask_token` in place of the hidden patches' embeddings: (B, T*S, D)."""
    x = torch.where(hidden_mask[..., None], mask_token, model.encoder.embeddings(pixels.flatten(1, 2)))  # (B, T*S, D)
    for layer in model.encoder.layer:
        x = layer(x, None)[0]
    tokens: Tensor = model.encoder.layernorm(x)
    return tokens


def patch_values(pixels: Tensor) -> Tensor:
    """Normalise the pixels of each patch to mean 0 and variance 1: (B, T*S, 2*3*P*P)."""
    cells = pixels.unflatten(-1, (-1, PATCH)).unflatten(-3, (-1, PATCH))  # (B, T, 2, 3, g, P, g, P)
    values = cells.permute(0, 1, 4, 6, 2, 3, 5, 7).flatten(4).flatten(1, 3)  # (B, T*S, 2*3*P*P)
    return (values - values.mean(-1, keepdim=True)) / (values.var(-1, keepdim=True) + 0.01).sqrt()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
