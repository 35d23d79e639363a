"""Weights of an encoder: from a checkpoint, loaded strictly, or from a seed, labelled RANDOM.

Checkpoints are folders as transformers saves them, or `.pt` files as facebookresearch/vjepa2 releases them.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from saccade_ros import default_model
from saccade_ros.encoder.adapter import load_adapter
from saccade_ros.encoder.model import Layer, StreamingEncoder
from saccade_ros.encoder.preprocessor import FILES as PREPROCESSORS
from saccade_ros.encoder.preprocessor import fold_preprocessor
from saccade_ros.encoder.probe import PREFIXES as PROBE_PREFIXES
from saccade_ros.encoder.probe import AttentiveProbe, load_probe
from saccade_ros.encoder.released import SUFFIXES as RELEASED_SUFFIXES
from saccade_ros.encoder.released import fill_from_released, read_released
from saccade_ros.encoder.spec import (
    SIZES,
    ModelSpec,
    read_model_config,
    spec_from_transformers,
    transformers_config,
)
from saccade_ros.encoder.tensors import (
    INDEX,
    WeightsError,
    copy_tensors,
    read_safetensors,
    refuse_dead,
    weight_files,
)
from saccade_ros.storage import home_path, whole_path, write_json

__all__ = ["LoadedEncoder", "WeightsError", "fingerprint", "load_encoder", "load_untrained"]


@dataclass(frozen=True)
class LoadedEncoder:
    """Encoder with its provenance.

    Attributes:
        source: origin of the weights, for people; starts with RANDOM if that is a seed.
        sha256: hex digest over every tensor, name and values in fp32; equal weights have equal digests.
        probe: of a video-classification checkpoint, if asked for.
    """

    encoder: StreamingEncoder
    source: str
    sha256: str
    is_random: bool
    probe: AttentiveProbe | None = None


def load_encoder(
    model: str,
    window: int,
    recompute: int = 1,
    seed: int = 0,
    adapter: str = "",
    probe: bool = False,
    merge: int = 0,
    input_size: int = 0,
) -> LoadedEncoder:
    """Build the encoder that `model` names, in fp32 on the CPU.

    Args:
        model: "default" (default_model.py), a size from spec.SIZES (random weights), a checkpoint folder, a released
            .pt file, or a hub id "owner/name", whose revision may be pinned: "owner/name@revision".
        adapter: file of a causal adapter to merge into the weights; none if empty.
        probe: load the attentive probe, too.
        merge: tokens that each layer merges into others; the weights are the same.
        input_size: of a .pt file that does not tell it, in pixels; 0 is what the checkpoint says.

    Raises:
        WeightsError: nothing there, or not a checkpoint this encoder computes exactly, or an adapter of another, or
            an input size that is not the checkpoint's.
        ConfigError: its config.json cannot be read, or describes another architecture.
        ValueError: the window does not suit the model, or merge the recompute.
    """
    if model in SIZES:
        loaded = load_untrained(SIZES[model], window, recompute, seed, merge)
    elif home_path(model).suffix.lower() in RELEASED_SUFFIXES and not home_path(model).is_dir():
        loaded = _load_released(model, window, recompute, merge, input_size)
    else:
        loaded = _load_folder(model, window, recompute, probe, merge)
    if input_size not in (0, own_size := loaded.encoder.spec.input_size):
        raise WeightsError(
            f"encoder.input_size is {input_size}, but {loaded.source} takes {own_size} px: set it to 0; only a .pt "
            "file, which does not say its size, needs it"
        )
    if probe and loaded.probe is None:
        raise WeightsError(f"encoder.pooling is 'probe' but {loaded.source} has none: give a video-classification one")
    return _with_adapter(loaded, home_path(adapter)) if adapter else loaded


def load_untrained(spec: ModelSpec, window: int, recompute: int = 1, seed: int = 0, merge: int = 0) -> LoadedEncoder:
    """Build an encoder of these sizes, in fp32 on the CPU, with the random weights of a seed."""
    encoder = _allocate(spec, window, recompute, merge)
    fill_randomly(encoder, seed)
    source = f"RANDOM weights, size {spec.name}, seed {seed}"
    return LoadedEncoder(encoder, source, fingerprint(encoder), is_random=True)


def _load_released(model: str, window: int, recompute: int, merge: int, input_size: int) -> LoadedEncoder:
    file = home_path(model)
    if not file.is_file():
        raise WeightsError(f"encoder.model {model!r} does not exist: give the path of a released .pt file")
    spec, tensors = read_released(file, input_size)
    encoder = _allocate(spec, window, recompute, merge)
    fill_from_released(encoder, file, tensors)
    refuse_dead(file, encoder.state_dict().items())
    return LoadedEncoder(encoder, f"checkpoint {model}", fingerprint(encoder), is_random=False)


def _load_folder(model: str, window: int, recompute: int, probe: bool, merge: int) -> LoadedEncoder:
    folder = _find_checkpoint(model)
    config = read_model_config(folder)
    name = Path(default_model.locate(model)).resolve().name  # not the folder's: a hub names its own by a hash
    spec = spec_from_transformers(name, config)
    encoder = _allocate(spec, window, recompute, merge)
    fill_from_transformers(encoder, folder)
    fold_preprocessor(encoder, folder)
    loaded_probe = load_probe(folder, spec, config) if probe else None
    source = default_model.SOURCE if model == default_model.NAME else f"checkpoint {model}"
    return LoadedEncoder(encoder, source, fingerprint(encoder), is_random=False, probe=loaded_probe)


def _with_adapter(loaded: LoadedEncoder, file: Path) -> LoadedEncoder:
    load_adapter(file).merge_into(loaded.encoder, loaded.sha256, file)
    source = f"{loaded.source}, causal adapter {file}"
    return replace(loaded, source=source, sha256=fingerprint(loaded.encoder))


def _allocate(spec: ModelSpec, window: int, recompute: int = 1, merge: int = 0) -> StreamingEncoder:
    """An encoder with uninitialised weights: torch's own initialisation costs seconds and moves its global seed."""
    with torch.device("meta"):
        encoder = StreamingEncoder(spec, window, recompute, merge)
    return encoder.to_empty(device="cpu").eval().requires_grad_(False)


def fill_randomly(model: nn.Module, seed: int) -> None:
    """Initialise linear layers and norms as transformers does, independent of torch's global seed.

    Weights are normal with sd 0.02, biases 0, the scales of norms 1.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def fingerprint(encoder: nn.Module) -> str:
    """Compute the SHA-256 over names and values of all tensors, as a hex digest."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.float().contiguous().numpy().data)
    return digest.hexdigest()


def fill_from_transformers(encoder: StreamingEncoder, folder: Path) -> None:
    """Copy a VJEPA2Model checkpoint, or the one inside a video classifier, into `encoder`, strictly."""
    named = ((name.removeprefix("vjepa2."), tensor) for name, tensor in read_safetensors(folder))
    unused = ("predictor.", *PROBE_PREFIXES)
    copy_tensors(folder, ((name, t) for name, t in named if not name.startswith(unused)), _placements(encoder))
    refuse_dead(folder, _placements(encoder))


def _placements(encoder: StreamingEncoder) -> Iterator[tuple[str, Tensor]]:
    """Each tensor's name in transformers, and the part of our parameter it fills."""
    spec, patch = encoder.spec, "encoder.embeddings.patch_embeddings.proj"
    kernel = (spec.width, 3, spec.tubelet_size, spec.patch_size, spec.patch_size)
    yield f"{patch}.weight", encoder.patch_embed.weight.data.view(kernel)
    yield f"{patch}.bias", encoder.patch_embed.bias.data
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


def _find_checkpoint(model: str) -> Path:
    """The local folder of a checkpoint, downloaded from the hub if `model` is an id and not there yet."""
    path = home_path(default_model.locate(model))
    if path.is_dir():
        return path
    if model == default_model.NAME:
        raise WeightsError(
            f"encoder.model {model!r} is neither in {' nor in '.join(map(str, default_model.PLACES))}: install the "
            "whole package again, or name another model"
        )
    if path.is_file() or not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", model):
        raise WeightsError(
            f"encoder.model {model!r} is no folder, no .pt file, no hub id (owner/name), not 'default' and "
            f"no size ({', '.join(SIZES)}){'; give the folder that this file is in' if path.is_file() else ''}"
        )
    return _find_in_hub(model)


def _find_in_hub(model: str) -> Path:
    """The folder of a checkpoint of the hub: the one in its cache, if it is whole, without asking the hub."""
    from huggingface_hub import snapshot_download  # only here: a robot with a local checkpoint needs no hub

    name, _, revision = model.partition("@")
    files = ["config.json", "*.safetensors", INDEX, *PREPROCESSORS]
    wanted: dict[str, Any] = {"revision": revision or None, "allow_patterns": files}
    with suppress(OSError, ValueError):  # not cached, or not all of it
        cached = Path(snapshot_download(name, **wanted, local_files_only=True))
        if (cached / "config.json").is_file() and weight_files(cached):
            return cached
    try:
        return Path(snapshot_download(name, **wanted))
    except Exception as failed:  # the hub's own errors and those of what it is reached by share no base class
        reason = str(failed).partition("\n")[0]
        raise WeightsError(
            f"encoder.model {model!r} is no folder here and could not be had from the hub ({reason}); "
            f"download it elsewhere and give its folder, or give a size with random weights ({', '.join(SIZES)})"
        ) from failed


def save_transformers(
    spec: ModelSpec, tensors: Mapping[str, Tensor], folder: Path, dtype: torch.dtype = torch.float32
) -> None:
    """Write an encoder as transformers' VJEPA2Model saves itself: config.json and model.safetensors.

    The model's predictor, which this package has no use for, is written with no layers and all zeros.

    Args:
        tensors: a StreamingEncoder's state.

    Raises:
        ConfigError: transformers has no config for such an encoder (the interleaved layout).
    """
    encoder = _allocate(spec, window=1)
    encoder.load_state_dict(tensors)
    predictor = {name: torch.zeros(shape) for name, shape in _predictor_shapes(spec)}
    stored = {name: tensor.to(dtype).contiguous() for name, tensor in (*_placements(encoder), *predictor.items())}
    with whole_path(folder / "model.safetensors") as path:
        save_file(stored, path, metadata={"format": "pt"})
    write_json(folder / "config.json", {**transformers_config(spec), "dtype": str(dtype).removeprefix("torch.")})


def _predictor_shapes(spec: ModelSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Tensors of transformers' VJEPA2Predictor without layers, as wide as one head (transformers_config)."""
    width = spec.head_width
    yield "predictor.embeddings.mask_tokens", (1, 1, 1, width)
    yield "predictor.embeddings.predictor_embeddings.weight", (width, spec.width)
    yield "predictor.embeddings.predictor_embeddings.bias", (width,)
    yield "predictor.layernorm.weight", (width,)
    yield "predictor.layernorm.bias", (width,)
    yield "predictor.proj.weight", (spec.width, width)
    yield "predictor.proj.bias", (spec.width,)
