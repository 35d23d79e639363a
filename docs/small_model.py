"""Make the small trained model that docs/fidelity.md measures the causal adapter on: no download, minutes on two cores.

    python docs/small_model.py FOLDER CLIP...

A V-JEPA 2 encoder (4 layers, 192 wide, 64 px, 8 tubelets) learns to tell the pixels of patches that are hidden from it.
It is no good encoder, but its weights have seen real video, and so one scene tells of another.
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
PLACES = (SIZE // PATCH) ** 2
STEPS, BATCH, LEARNING_RATE, WARM_UP_STEPS = 800, 16, 1e-3, 50
HIDDEN = 0.6  # share of the patches
FASTEST = 8  # frames of the recording between two of a view, at most


def main(folder: str, paths: list[str]) -> None:
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
    head, veil = nn.Linear(WIDTH, 2 * 3 * PATCH**2), nn.Parameter(torch.zeros(WIDTH))
    parameters = [*model.encoder.parameters(), *head.parameters(), veil]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05)
    for step in range(STEPS):
        warm = min(1.0, (step + 1) / WARM_UP_STEPS)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * warm * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        pixels = torch.stack([view(clips) for _ in range(BATCH)])  # (B, T, 2, 3, H, W)
        hidden_mask = hide()  # (B, T*S)
        with torch.autocast("cpu", torch.bfloat16):
            told = head(encode(model, pixels, hidden_mask, veil))
        loss = (told.float() - patch_values(pixels))[hidden_mask].square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step} of {STEPS}: loss {loss.item():.3f}", flush=True)
    model.save_pretrained(folder)


def below(number: int) -> int:
    return int(torch.randint(number, ()))


def view(clips: list[Tensor]) -> Tensor:
    """A stretch of a clip at some speed, seen somehow: (T, 2, 3, H, W)."""
    frames, stride = clips[below(len(clips))], 1 + below(FASTEST)
    played = torch.arange(2 * TUBELETS) * stride + below(max(1, len(frames) - 2 * TUBELETS * stride))
    shown = frames[played.clamp(max=len(frames) - 1)]  # (2T, 3, B, B)
    return random_view(shown.unflatten(0, (-1, 2)), SIZE, TUBELETS, torch.default_generator)


def hide() -> Tensor:
    """What the encoder does not see: in half of the examples the same places in every tubelet. (B, T*S)"""
    at_places = torch.rand(BATCH, 1, PLACES).expand(-1, TUBELETS, -1)
    anywhere = torch.rand(BATCH, TUBELETS, PLACES)
    return (torch.where(torch.rand(BATCH, 1, 1) < 0.5, at_places, anywhere) < HIDDEN).flatten(1)


def encode(model: VJEPA2Model, pixels: Tensor, hidden_mask: Tensor, veil: Tensor) -> Tensor:
    """Tokens of clips with `veil` in place of what is hidden: (B, T*S, D)."""
    x = torch.where(hidden_mask[..., None], veil, model.encoder.embeddings(pixels.flatten(1, 2)))
    for layer in model.encoder.layer:
        x = layer(x, None)[0]
    tokens: Tensor = model.encoder.layernorm(x)
    return tokens


def patch_values(pixels: Tensor) -> Tensor:
    """Every patch's pixels, less their mean, in units of their deviation: (B, T*S, 2*3*P*P)."""
    cells = pixels.unflatten(-1, (-1, PATCH)).unflatten(-3, (-1, PATCH))  # (B, T, 2, 3, g, P, g, P)
    values = cells.permute(0, 1, 4, 6, 2, 3, 5, 7).flatten(4).flatten(1, 3)
    return (values - values.mean(-1, keepdim=True)) / (values.var(-1, keepdim=True) + 0.01).sqrt()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
