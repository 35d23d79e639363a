"""Weights of an encoder: from a checkpoint, loaded strictly, or from a seed, labelled RANDOM.

Checkpoints are folders as transformers saves them, or `.pt` files as facebookresearch/vjepa2 releases them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from saccade_ros.encoder import state
from saccade_ros.encoder.adapter import load_adapter
from saccade_ros.encoder.checkpoint import check_input_size, find_checkpoint, is_released, placements
from saccade_ros.encoder.model import StreamingEncoder
from saccade_ros.encoder.probe import AttentiveProbe, load_probe
from saccade_ros.encoder.released import fill_from_released, read_released
from saccade_ros.encoder.spec import SIZES, ModelSpec, transformers_config
from saccade_ros.encoder.tensors import Floats, WeightsError
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
    elif is_released(model):
        loaded = _load_released(model, window, recompute, merge, input_size)
    else:
        loaded = _load_folder(model, window, recompute, probe, merge)
    check_input_size(input_size, loaded.encoder.spec, loaded.source)
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
    fill_from_released(state_of(encoder), spec, file, tensors)
    return LoadedEncoder(encoder, f"checkpoint {model}", fingerprint(encoder), is_random=False)


def _load_folder(model: str, window: int, recompute: int, probe: bool, merge: int) -> LoadedEncoder:
    checkpoint = find_checkpoint(model)
    encoder = _allocate(checkpoint.spec, window, recompute, merge)
    checkpoint.fill(state_of(encoder))
    loaded_probe = load_probe(checkpoint.folder, checkpoint.spec, checkpoint.config) if probe else None
    return LoadedEncoder(encoder, checkpoint.source, fingerprint(encoder), is_random=False, probe=loaded_probe)


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


def state_of(module: nn.Module) -> dict[str, Floats]:
    """Return a module's tensors by name; those in fp32 on the CPU as they are, to be read or filled."""
    return {name: tensor.float().cpu().numpy() for name, tensor in module.state_dict().items()}


def fingerprint(module: nn.Module) -> str:
    """Compute the SHA-256 over names and values of all tensors, as a hex digest."""
    return state.fingerprint(state_of(module))


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
    placed = {name: torch.from_numpy(values) for name, values in placements(spec, state_of(encoder))}
    predictor = {name: torch.zeros(shape) for name, shape in _predictor_shapes(spec)}
    stored = {name: tensor.to(dtype).contiguous() for name, tensor in (placed | predictor).items()}
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
