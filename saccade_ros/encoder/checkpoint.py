"""Checkpoints in transformers' format: a folder, the default model's or the hub's, read strictly and in NumPy."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade_ros import default_model
from saccade_ros.encoder.preprocessor import FILES as PREPROCESSORS
from saccade_ros.encoder.preprocessor import fold_preprocessor
from saccade_ros.encoder.spec import SIZES, ModelSpec, read_model_config, spec_from_transformers
from saccade_ros.encoder.state import State
from saccade_ros.encoder.tensors import (
    INDEX,
    Floats,
    WeightsError,
    copy_tensors,
    read_safetensors,
    refuse_dead,
    weight_files,
)
from saccade_ros.storage import home_path

PROBE_PREFIXES = ("pooler.", "classifier.")  # of a video classifier's tensors that are not its encoder's
RELEASED_SUFFIXES = (".pt", ".pth", ".tar")  # of files that are checkpoints in torch's own format (released.py)


@dataclass(frozen=True)
class Checkpoint:
    """Folder that holds a VJEPA2Model, or a video classifier with one inside.

    Attributes:
        source: origin of the weights, for people.
        config: its config.json, what is null left out.
    """

    folder: Path
    source: str
    spec: ModelSpec
    config: Mapping[str, Any]

    def fill(self, state: State) -> None:
        """Read the weights into the tensors of an encoder of these sizes, for ImageNet-normalised pixels.

        Raises:
            WeightsError: they are not exactly an encoder's; names the file or tensor.
        """
        named = ((name.removeprefix("vjepa2."), tensor) for name, tensor in read_safetensors(self.folder))
        unused = ("predictor.", *PROBE_PREFIXES)
        placed = dict(placements(self.spec, state))
        copy_tensors(self.folder, ((name, t) for name, t in named if not name.startswith(unused)), placed.items())
        refuse_dead(self.folder, placed.items())
        fold_preprocessor(state, self.spec, self.folder)


def find_checkpoint(model: str) -> Checkpoint:
    """Find the checkpoint that `model` names, and read its config.

    Raises:
        WeightsError: it is neither "default" nor a folder, nor to be had from the hub.
        ConfigError: its config.json cannot be used.
    """
    folder = _find_folder(model)
    config = read_model_config(folder)
    name = Path(default_model.locate(model)).resolve().name  # not the folder's: a hub names its own by a hash
    source = default_model.SOURCE if model == default_model.NAME else f"checkpoint {model}"
    return Checkpoint(folder, source, spec_from_transformers(name, config), config)


def is_released(model: str) -> bool:
    """Tell whether `model` names a file in torch's own format."""
    path = home_path(model)
    return path.suffix.lower() in RELEASED_SUFFIXES and not path.is_dir()


def placements(spec: ModelSpec, state: State) -> Iterator[tuple[str, Floats]]:
    """Iterate over each tensor's name in transformers, and the part of ours that it fills."""
    patch = "encoder.embeddings.patch_embeddings.proj"
    kernel = (spec.width, 3, spec.tubelet_size, spec.patch_size, spec.patch_size)
    yield f"{patch}.weight", state["patch_embed.weight"].reshape(kernel)
    yield f"{patch}.bias", state["patch_embed.bias"]
    parts = {"norm1": "norm1", "norm2": "norm2", "mlp.fc1": "fc1", "mlp.fc2": "fc2", "attention.proj": "attention.proj"}
    for i in range(spec.depth):
        for kind in ("weight", "bias"):
            for theirs, ours in parts.items():
                yield f"encoder.layer.{i}.{theirs}.{kind}", state[f"layers.{i}.{ours}.{kind}"]
            joined = state[f"layers.{i}.attention.qkv.{kind}"]
            for j, name in enumerate(("query", "key", "value")):
                yield f"encoder.layer.{i}.attention.{name}.{kind}", joined[j * spec.width : (j + 1) * spec.width]
    yield "encoder.layernorm.weight", state["norm.weight"]
    yield "encoder.layernorm.bias", state["norm.bias"]


def check_input_size(asked: int, spec: ModelSpec, source: str) -> None:
    """Raise WeightsError if encoder.input_size is set, and not to the model's own."""
    if asked not in (0, spec.input_size):
        raise WeightsError(
            f"encoder.input_size is {asked}, but {source} takes {spec.input_size} px: set it to 0; only a .pt "
            "file, which does not say its size, needs it"
        )


def _find_folder(model: str) -> Path:
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
