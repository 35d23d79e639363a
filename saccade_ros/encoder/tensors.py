"""Strict copying of a checkpoint's tensors: each must be there once, with its shape, and nothing else may be."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor


class WeightsError(ValueError):
    """Checkpoint that cannot be used. The message names the file or tensor and the remedy."""


def copy_tensors(where: Path, tensors: Iterable[tuple[str, Tensor]], placements: Iterable[tuple[str, Tensor]]) -> None:
    """Copy each named tensor into the one that `placements` has for it; one on the meta device only checks the shape.

    Raises:
        WeightsError: one is missing, unexpected, given twice, or of another shape; names it.
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
                f"{where}: tensor {name} has shape {tuple(tensor.shape)}, the model's sizes ask for "
                f"{tuple(target.shape)}: the file is of another model, or its tensors are of several"
            )
        target.copy_(tensor)
    for kind, names in (("lacks", list(wanted)), ("has unexpected", extra)):
        if names:
            shown = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise WeightsError(f"{where}: the checkpoint {kind} tensor {shown}; it is no complete V-JEPA encoder")


def read_safetensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Iterate over every tensor of a folder's .safetensors files.

    Raises:
        WeightsError: there is none, or one cannot be read.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise WeightsError(f"{folder}: no .safetensors file; save the model again with safe serialization")
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118  # safe_open is no mapping
                    yield name, opened.get_tensor(name)
        except (SafetensorError, OSError) as broken:
            raise WeightsError(f"{file}: cannot be read ({broken}); download or copy it again") from broken
