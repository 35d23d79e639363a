"""Where an encoder's numbers come from: a transformers checkpoint, loaded strictly, or a seed, labelled RANDOM."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from saccade_ros.encoder.model import Layer, StreamingEncoder
from saccade_ros.encoder.spec import SIZES, ModelSpec, spec_from_transformers


class WeightsError(ValueError):
    """A checkpoint that cannot be used. The message names the file or tensor and the remedy."""


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder with its provenance.

    Attributes:
        source: where the weights came from, for people; starts with RANDOM if a seed did.
        sha256: hex digest over every tensor, name and values in fp32; equal weights have equal digests.
    """

    encoder: StreamingEncoder
    source: str
    sha256: str
    is_random: bool


def load_encoder(model: str, window: int, lookback: int = 1, seed: int = 0) -> LoadedEncoder:
    """Build the encoder that `model` names, in fp32 on the CPU.

    Args:
        model: a size from spec.SIZES (random weights), a checkpoint folder, or a hub id "owner/name".

    Raises:
        WeightsError: nothing there, or not a checkpoint this encoder computes exactly.
        ConfigError: its config.json describes another architecture.
        ValueError: the window does not suit the model.
    """
    if model in SIZES:
        encoder = _allocate(SIZES[model], window, lookback)
        fill_randomly(encoder, seed)
        source = f"RANDOM weights, size {model}, seed {seed}"
    else:
        folder = _find_checkpoint(model)
        encoder = _allocate(_read_spec(model, folder), window, lookback)
        load_transformers_tensors(encoder, folder)
        source = f"checkpoint {model}"
    encoder.eval().requires_grad_(False)
    return LoadedEncoder(encoder, source, fingerprint(encoder), is_random=model in SIZES)


def _allocate(spec: ModelSpec, window: int, lookback: int) -> StreamingEncoder:
    """An encoder with uninitialised weights: torch's own initialisation costs seconds and moves its global seed."""
    with torch.device("meta"):
        encoder = StreamingEncoder(spec, window, lookback)
    return encoder.to_empty(device="cpu")


def fill_randomly(encoder: StreamingEncoder, seed: int) -> None:
    """Initialise as transformers does (normal, sd 0.02; biases 0; norms 1), independent of torch's global seed."""
    generator = torch.Generator().manual_seed(seed)
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def fingerprint(encoder: StreamingEncoder) -> str:
    """SHA-256 over names and values of all tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.float().contiguous().numpy().data)
    return digest.hexdigest()


def load_transformers_tensors(encoder: StreamingEncoder, folder: Path) -> None:
    """Copy a VJEPA2Model checkpoint into `encoder`; every tensor must be there once, with its shape."""
    wanted = dict(_placements(encoder))
    extra = []
    for name, tensor in _read_tensors(folder):
        if name not in wanted:
            extra.append(name)
            continue
        target = wanted.pop(name)
        if name == _PATCH_WEIGHT:
            tensor = tensor.flatten(1)  # (D, 3, 2, p, p) -> (D, 3*2*p*p)
        if tensor.shape != target.shape:
            raise WeightsError(
                f"{folder}: tensor {name} has shape {tuple(tensor.shape)}, config.json asks for {tuple(target.shape)}: "
                "weights and config are of different models"
            )
        target.copy_(tensor)
    _refuse_mismatch(folder, missing=list(wanted), extra=extra)


_PATCH_WEIGHT = "encoder.embeddings.patch_embeddings.proj.weight"


def _placements(encoder: StreamingEncoder) -> Iterator[tuple[str, Tensor]]:
    """Each tensor's name in transformers, and the part of our parameter it fills."""
    yield _PATCH_WEIGHT, encoder.patch_embed.weight.data
    yield _PATCH_WEIGHT.replace("weight", "bias"), encoder.patch_embed.bias.data
    for i, layer in enumerate(encoder.layers):
        assert isinstance(layer, Layer)
        parts = {"norm1": layer.norm1, "norm2": layer.norm2, "mlp.fc1": layer.fc1, "mlp.fc2": layer.fc2}
        parts["attention.proj"] = layer.attention.proj
        for name, module in parts.items():
            for kind in ("weight", "bias"):
                yield f"encoder.layer.{i}.{name}.{kind}", getattr(module, kind).data
        for kind in ("weight", "bias"):
            thirds = getattr(layer.attention.qkv, kind).data.chunk(3)
            for name, part in zip(("query", "key", "value"), thirds, strict=True):
                yield f"encoder.layer.{i}.attention.{name}.{kind}", part
    yield "encoder.layernorm.weight", encoder.norm.weight.data
    yield "encoder.layernorm.bias", encoder.norm.bias.data


def _refuse_mismatch(folder: Path, missing: list[str], extra: list[str]) -> None:
    for kind, names in (("lacks", missing), ("has unexpected", extra)):
        if names:
            shown = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise WeightsError(f"{folder}: the checkpoint {kind} tensor {shown}; it is no complete VJEPA2Model")


def _read_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """All tensors but the predictor's, which are part of such checkpoints and of no use here."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise WeightsError(f"{folder}: no .safetensors file; save the model again with safe serialization")
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118  # safe_open is no mapping
                    if not name.startswith("predictor."):
                        yield name, opened.get_tensor(name)
        except (SafetensorError, OSError) as broken:
            raise WeightsError(f"{file}: cannot be read ({broken}); download or copy it again") from broken


def _read_spec(model: str, folder: Path) -> ModelSpec:
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{folder}: no config.json; give the folder that save_pretrained wrote") from None
    except (OSError, ValueError) as broken:
        raise WeightsError(f"{file}: cannot be read ({broken}); download or copy it again") from broken
    if not isinstance(config, dict):
        raise WeightsError(f"{file}: holds no JSON object; download or copy it again")
    return spec_from_transformers(Path(model).resolve().name, config)  # a hub's own folder is named by a hash


def _find_checkpoint(model: str) -> Path:
    """The local folder of a checkpoint, downloaded from the hub if `model` is an id and not there yet."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise WeightsError(
            f"encoder.model {model!r} is no folder, no hub id (owner/name) and no size ({', '.join(SIZES)})"
        )
    from huggingface_hub import snapshot_download  # only here: a robot with a local checkpoint needs no hub

    try:
        return Path(snapshot_download(model, allow_patterns=["config.json", "*.safetensors"]))
    except (OSError, ValueError) as failed:  # what the hub's own errors derive from
        reason = str(failed).partition("\n")[0]
        raise WeightsError(
            f"encoder.model {model!r} is no folder here and could not be had from the hub ({reason}); "
            f"download it elsewhere and give its folder, or give a size with random weights ({', '.join(SIZES)})"
        ) from failed
