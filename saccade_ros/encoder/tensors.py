"""Tensors of a checkpoint, in NumPy: the files they are in, and strict copying. Each must be there once, with its
shape, of values that weights can have, and nothing else may be.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from saccade_ros.encoder.spec import read_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
}  # NumPy has no bf16: its bits
Floats = npt.NDArray[np.float32]

_log = logging.getLogger(__name__)


class WeightsError(ValueError):
    """Checkpoint that cannot be used. The message names the file or tensor and the remedy."""


class StoredTensor(NamedTuple):
    """Tensor as a file holds it.

    Attributes:
        kind: its type, by safetensors' name; weights are of one of FLOATS.
        data: its bytes, mapped from disk where the file can be.
    """

    kind: str
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]

    def read(self) -> npt.NDArray[Any]:
        """Read the values, of one of FLOATS, with all their digits."""
        stored: npt.NDArray[Any] = self.data.view(FLOATS[self.kind]).reshape(self.shape)
        if self.kind == "BF16":  # the upper half of an fp32
            stored = (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return stored


def copy_tensors(
    where: Path, tensors: Iterable[tuple[str, StoredTensor]], placements: Iterable[tuple[str, Floats]]
) -> None:
    """Copy each named tensor into the array that `placements` has for it; a read-only one only checks the shape.

    Raises:
        WeightsError: one is missing, unexpected, given twice, of another shape, or holds no weights; names it.
    """
    wanted = dict(placements)
    extra = []
    for name, tensor in tensors:
        if name not in wanted:
            extra.append(name)
            continue
        target = wanted.pop(name)
        if tensor.shape != target.shape:
            raise WeightsError(
                f"{where}: tensor {name} has shape {tensor.shape}, the model's sizes ask for "
                f"{target.shape}: the file is of another model, or its tensors are of several"
            )
        _check_kind(where, name, tensor)
        if not target.flags.writeable:
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            target[...] = tensor.read()
        if not np.isfinite(target).all():
            raise WeightsError(f"{where}: tensor {name} holds NaN or infinity; download, copy or train it again")
    for kind, names in (("lacks", list(wanted)), ("has unexpected", extra)):
        if names:
            shown = _some(sorted(names))
            raise WeightsError(f"{where}: the checkpoint {kind} tensor {shown}; it is no complete V-JEPA encoder")


def _check_kind(where: Path, name: str, tensor: StoredTensor) -> None:
    if tensor.kind not in FLOATS:
        raise WeightsError(
            f"{where}: tensor {name} is {tensor.kind}: these are codes of a quantized model or no weights at all; give "
            "the checkpoint in fp32, bf16 or fp16 (int8 is made here: backend.precision, saccade export)"
        )


def refuse_dead(where: Path, tensors: Iterable[tuple[str, Floats]]) -> None:
    """Refuse weights that let nothing through: a matrix whose values are all the same, a norm that scales by 0.

    Raises:
        WeightsError: there is one; names it.
    """
    for name, tensor in tensors:
        is_matrix = sum(size > 1 for size in tensor.shape) > 1
        is_scale = "norm" in name and name.endswith("weight")
        if (is_matrix and tensor.min() == tensor.max()) or (is_scale and not tensor.any()):
            raise WeightsError(
                f"{where}: tensor {name} is dead: all of its {tensor.size} values are {tensor.flat[0]:g}; the "
                "checkpoint was never filled or trained: give another"
            )


def read_safetensors(folder: Path, prefixes: tuple[str, ...] = ("",)) -> Iterator[tuple[str, StoredTensor]]:
    """Iterate over the tensors of a transformers checkpoint's weights whose names begin so.

    Raises:
        WeightsError: there are none, or a file cannot be read.
    """
    for file in weight_files(folder):
        try:
            tensors = _map_tensors(file)
        except (SafetensorError, OSError, ValueError) as broken:
            raise WeightsError(f"{file}: cannot be read ({broken}); download or copy it again") from broken
        yield from ((name, tensor) for name, tensor in tensors.items() if name.startswith(prefixes))


def _map_tensors(file: Path) -> dict[str, StoredTensor]:
    """Map a file from disk. safetensors itself checks the header; its NumPy side gives out no bf16."""
    with safe_open(file, framework="numpy"):
        stored: npt.NDArray[np.uint8] = np.memmap(file, np.uint8, "r").view(np.ndarray)
    start = 8 + int.from_bytes(stored[:8].tobytes(), "little")
    header = json.loads(stored[8:start].tobytes())
    header.pop("__metadata__", None)
    return {name: _stored(entry, stored[start:]) for name, entry in header.items()}


def _stored(entry: Mapping[str, Any], data: npt.NDArray[np.uint8]) -> StoredTensor:
    return StoredTensor(entry["dtype"], tuple(entry["shape"]), data[slice(*entry["data_offsets"])])


def weight_files(folder: Path) -> list[Path]:
    """Find the files that transformers loads: model.safetensors, else those that the index lists. Others are named.

    Raises:
        WeightsError: there are none, or one is missing.
        ConfigError: the index cannot be read.
    """
    files = [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else _indexed(folder)
    strays = sorted({path.name for path in folder.glob("*.safetensors")} - {path.name for path in files})
    if not files:
        raise WeightsError(
            f"{folder}: neither {WEIGHTS} nor {INDEX}{f' (but {_some(strays)})' if strays else ''}: save the model "
            "again by save_pretrained, with safe serialization, or give the file its name back"
        )
    if strays:
        _log.warning("%s: not loaded, as %s is: %s", folder, _some([path.name for path in files]), _some(strays))
    return files


def _indexed(folder: Path) -> list[Path]:
    """The files of a checkpoint in parts."""
    index = read_json(folder / INDEX)
    if index is None:
        return []
    parts = index.get("weight_map")
    names = (
        set(parts.values()) if isinstance(parts, dict) and all(isinstance(n, str) for n in parts.values()) else set()
    )
    if not names or any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
        raise WeightsError(f"{folder / INDEX}: names no .safetensors files beside it; download or copy it again")
    files = [folder / name for name in sorted(names)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise WeightsError(f"{folder}: {INDEX} lists {_some(missing)}, not there; download or copy the rest")
    return files


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
