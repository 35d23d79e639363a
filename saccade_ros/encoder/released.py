"""Released `.pt` files of facebookresearch/vjepa2: V-JEPA 2.1, and V-JEPA 2 in the same container.

Such a file holds no config, so the sizes are read off the tensors; what no tensor tells (heads, input size) follows
the repository's src/hub/backbones.py. Beside the encoder it holds the predictor, the optimizer and, of a distilled
model, its teacher: `ema_encoder` of ViT-B and ViT-L, `target_encoder` of the others, are what the hub entry loads.
"""

import logging
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade_ros.encoder.spec import ModelSpec
from saccade_ros.encoder.state import State, shape_alone, shapes_alone
from saccade_ros.encoder.tensors import Floats, StoredTensor, WeightsError, copy_tensors, refuse_dead
from saccade_ros.storage import whole_path

ENCODERS = ("ema_encoder", "target_encoder", "encoder")  # the first that a file has is the released model
SIZES_IN_NAMES = (112, 128, 224, 256, 384, 512)  # inputs in pixels; any other number in a name counts something else
_HEADS = {1280: 16}  # ViT-H; every other released size has heads of 64 channels
_REMEDY = (
    f"give heads of 64 channels, and an input of {', '.join(map(str, SIZES_IN_NAMES[:-1]))} or {SIZES_IN_NAMES[-1]}"
)
_MASK_TOKENS_OF_V_JEPA_1 = 2
_KINDS = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_NORMS = 4  # of V-JEPA 2.1: outputs of four depths are normalised, the last of them is the encoder's

_log = logging.getLogger(__name__)


def read_released(file: Path, input_size: int = 0) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Read the encoder's sizes and its tensors, by the names of the repository's modules, mapped from disk.

    Args:
        input_size: in pixels; 0 takes it from the file's name, or is the usual one.

    Raises:
        WeightsError: not such a file, or cut, or of V-JEPA 1.
        ConfigError: its sizes are no encoder's.
    """
    document = _load(file)
    tensors = _encoder_tensors(file, document)
    _refuse_absolute_positions(file, tensors, document)
    return _spec_of(file, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, input_size), tensors


def fill_from_released(state: State, spec: ModelSpec, file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Copy what `read_released` read into an encoder's tensors, strictly.

    V-JEPA 2.1 adds a learned vector to every patch embedding of a video; the patch embedding's bias takes it in.
    """
    is_21, video = bool(spec.rope_grid), np.zeros((1, 1, spec.width), np.float32)
    placed = [*_placements(spec, state), *([("video_mod_embed", video)] if is_21 else [])]
    # V-JEPA 2's rotary positions replaced pos_embed, which some of its files still hold
    named = ((name, stored_tensor(t)) for name, t in tensors.items() if is_21 or name != "pos_embed")
    copy_tensors(file, named, placed)
    state["patch_embed.bias"][...] += video.reshape(-1)
    refuse_dead(file, state.items())


def stored_tensor(tensor: Tensor) -> StoredTensor:
    """Describe a tensor of torch's as one of a file, its bytes shared."""
    kind = _KINDS.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))
    bytes_alone = tensor.detach().contiguous().view(-1).view(torch.uint8)
    return StoredTensor(kind, tuple(tensor.shape), bytes_alone.numpy())


def save_released(spec: ModelSpec, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write an encoder as a released file that `read_released` reads; what no stream of video needs is zero.

    Args:
        tensors: a StreamingEncoder's state.

    Raises:
        WeightsError: see check_released.
    """
    check_released(spec, file)
    state = {name: tensor.float().cpu().numpy() for name, tensor in tensors.items()}
    stored = {name: torch.tensor(values) for name, values in _named(spec, state)}
    with whole_path(file) as path:
        torch.save({ENCODERS[0]: stored}, path)


def check_released(spec: ModelSpec, file: Path) -> None:
    """Check that a released file of this name tells all sizes of an encoder, which it holds no config for.

    Raises:
        WeightsError: it would be read as an encoder of other sizes; names the first.
    """
    read = _spec_of(file, {name: values.shape for name, values in _named(spec, shapes_alone(spec))})
    for size in (field.name for field in fields(spec) if field.name != "name"):
        there, here = getattr(read, size), getattr(spec, size)
        if there != here:
            raise WeightsError(f"{file}: a released file is read with {size} {there}, the model has {here}: {_REMEDY}")


def _named(spec: ModelSpec, state: State) -> Iterator[tuple[str, Floats]]:
    """Every tensor of a released file by name; zeros that take no memory where none of ours is meant."""
    yield from _placements(spec, state)
    if spec.rope_grid:
        yield "video_mod_embed", shape_alone(1, 1, spec.width)


def _load(file: Path) -> dict[str, Any]:
    try:
        document = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as broken:  # of a file that is no such file, torch.load raises what its bytes happen to ask for
        reason = str(broken).partition("\n")[0]
        raise WeightsError(f"{file}: cannot be read ({reason}); download or copy it again") from broken
    return document if isinstance(document, dict) else {}


def _encoder_tensors(file: Path, document: Mapping[str, Any]) -> dict[str, Tensor]:
    found = next((document[key] for key in ENCODERS if key in document), None)
    if not isinstance(found, dict):
        raise WeightsError(
            f"{file}: holds none of {', '.join(ENCODERS)}; give a .pt file that facebookresearch released"
        )
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise WeightsError(
                f"{file}: {name!r:.60} is a {type(tensor).__name__}, not a tensor by name; it is no state"
            )
    return {_plain(name): tensor for name, tensor in found.items()}


def _plain(name: str) -> str:
    """A tensor's name without what the wrappers of distributed training left in it."""
    return name.removeprefix("module.").removeprefix("backbone.")


def _refuse_absolute_positions(file: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Refuse V-JEPA 1, which has every tensor of V-JEPA 2, but adds positions to its patches in place of rotating.

    Released V-JEPA 2 files hold such positions too, unused. Their predictor has ten mask tokens, V-JEPA 1's two.
    """
    positions, predictor = tensors.get("pos_embed"), document.get("predictor")
    names = map(str, predictor) if isinstance(predictor, dict) else ()
    mask_tokens = sum(_plain(name).startswith("mask_tokens.") for name in names)
    if positions is not None and positions.any() and mask_tokens <= _MASK_TOKENS_OF_V_JEPA_1:
        raise WeightsError(
            f"{file}: adds absolute positions (pos_embed), as V-JEPA 1 does, and no predictor of V-JEPA 2 is in it: "
            "this encoder computes V-JEPA 2 and 2.1 only; of V-JEPA 2 give the whole released file, or the folder in "
            "transformers' format"
        )


def _spec_of(file: Path, shapes: Mapping[str, tuple[int, ...]], input_size: int = 0) -> ModelSpec:
    patch, mlp = (_required(file, shapes, name) for name in ("patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"))
    if len(patch) != 5 or patch[1:3] != (3, 2):
        raise WeightsError(f"{file}: tensor patch_embed.proj.weight has shape {patch}, not (D, 3, 2, p, p)")
    width, is_21 = patch[0], "norms_block.0.weight" in shapes
    return ModelSpec(
        file.stem,
        width=width,
        depth=len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}),
        heads=_HEADS.get(width, max(1, width // 64)),
        input_size=input_size or _size_in_name(file) or (384 if is_21 else 256),
        mlp_width=mlp[0],
        patch_size=patch[-1],
        rope="interleaved" if is_21 else "tiled",
        rope_grid=256 // patch[-1] if is_21 else 0,
    )


def _size_in_name(file: Path) -> int:
    """The input size that the file's name ends with; 0 if none."""
    name = re.sub(r"(\.(pt|pth|tar))+$", "", file.name.lower())
    number = re.search(r"[-_](\d+)(px)?$", name)
    if number and int(number[1]) not in SIZES_IN_NAMES:
        _log.warning("%s: %s is no input size; encoder.input_size sets another than the usual one", file, number[1])
        return 0
    return int(number[1]) if number else 0


def _required(file: Path, shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, ...]:
    if name not in shapes:
        raise WeightsError(f"{file}: the checkpoint lacks tensor {name}; it is no V-JEPA encoder")
    return shapes[name]


def _placements(spec: ModelSpec, state: State) -> Iterator[tuple[str, Floats]]:
    """Each tensor's name in a released file, and the tensor of ours that it fills."""
    kernel = (spec.width, 3, spec.tubelet_size, spec.patch_size, spec.patch_size)
    yield "patch_embed.proj.weight", state["patch_embed.weight"].reshape(kernel)
    yield "patch_embed.proj.bias", state["patch_embed.bias"]
    parts = {"norm1": "norm1", "norm2": "norm2", "mlp.fc1": "fc1", "mlp.fc2": "fc2"}
    parts |= {"attn.qkv": "attention.qkv", "attn.proj": "attention.proj"}
    for i in range(spec.depth):
        for theirs, ours in parts.items():
            for kind in ("weight", "bias"):
                yield f"blocks.{i}.{theirs}.{kind}", state[f"layers.{i}.{ours}.{kind}"]
    norm = f"norms_block.{_NORMS - 1}" if spec.rope_grid else "norm"
    yield f"{norm}.weight", state["norm.weight"]
    yield f"{norm}.bias", state["norm.bias"]
    if spec.rope_grid:
        yield from _unused(spec)


def _unused(spec: ModelSpec) -> Iterator[tuple[str, Floats]]:
    """Tensors of V-JEPA 2.1 that no stream of video needs: norms of three inner outputs, and the path of images."""
    for i in range(_NORMS - 1):
        for kind in ("weight", "bias"):
            yield f"norms_block.{i}.{kind}", shape_alone(spec.width)
    yield "img_mod_embed", shape_alone(1, 1, spec.width)
    yield "patch_embed_img.proj.bias", shape_alone(spec.width)
    yield "patch_embed_img.proj.weight", shape_alone(spec.width, 3, 1, spec.patch_size, spec.patch_size)
