"""Preprocessor of a transformers checkpoint: the input that it was trained on.

Its mean and standard deviation are folded into the patch embedding, so that every runtime goes on taking pictures
normalised by ImageNet's, and the embeddings are the checkpoint's own. What cannot be folded is refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from saccade_ros.encoder.spec import ModelSpec, read_json
from saccade_ros.encoder.state import State
from saccade_ros.encoder.tensors import WeightsError
from saccade_ros.frames import IMAGENET_MEAN, IMAGENET_STD

Colours = npt.NDArray[np.float64]  # a value for each of three, (3,)

FILES = {
    "video_preprocessor_config.json": "",
    "processor_config.json": "video_processor",
    "preprocessor_config.json": "",
}
_TYPE = "VJEPA2VideoProcessor"  # it makes its resize of crop_size, whatever its file says
_NEEDED = {"do_resize": True, "do_center_crop": True, "do_pad": False, "do_grayscale": False, "resample": 2}
_REMEDY = "correct that file, or remove it if the checkpoint was trained on V-JEPA 2's own preprocessing"


def fold_preprocessor(state: State, spec: ModelSpec, folder: Path) -> None:
    """Change the patch embedding so that it takes ImageNet-normalised pixels, whatever the checkpoint was trained on.

    Raises:
        ConfigError: a preprocessor's file cannot be read.
        WeightsError: it asks for a step that is not done here; names it.
    """
    file, settings = _read(folder)
    _check(file, settings, spec)
    mean, std = _normalisation(file, settings)
    scale, shift = np.array(IMAGENET_STD) / std, (np.array(IMAGENET_MEAN) - mean) / std  # theirs = scale * ours + shift
    if np.allclose(scale, 1, atol=1e-6) and np.allclose(shift, 0, atol=1e-6):
        return
    weight, bias = state["patch_embed.weight"], state["patch_embed.bias"]
    kernel = weight.reshape(len(weight), 3, -1).astype(np.float64)  # (D, 3, tubelet*p*p)
    bias[...] = bias + kernel.sum(axis=2) @ shift
    weight[...] = (kernel * scale[:, None]).reshape(weight.shape)


def _read(folder: Path) -> tuple[Path, Mapping[str, Any]]:
    """The first preprocessor's file that is there, as transformers looks for them, and what it says; null is absent."""
    for name, part in FILES.items():
        settings = read_json(folder / name)
        settings = settings.get(part) if settings and part else settings
        if isinstance(settings, dict):
            return folder / name, {key: value for key, value in settings.items() if value is not None}
    return folder, {}


def _check(file: Path, settings: Mapping[str, Any], spec: ModelSpec) -> None:
    """Refuse geometry that is not the evaluation transform of vision/preprocess.py."""
    size = spec.input_size
    for key, needed in _NEEDED.items():
        if settings.get(key, needed) != needed:
            raise WeightsError(f"{file}: {key} is {settings[key]!r}, but here it is always {needed!r}: {_REMEDY}")
    crop = settings.get("crop_size", size)
    if crop not in (size, {"height": size, "width": size}):
        raise WeightsError(f"{file}: crop_size is {crop!r}, but config.json has {size}: {_REMEDY}")
    resize, needed_size = settings.get("size"), {"shortest_edge": int(size * 256 / 224)}
    kind = settings.get("video_processor_type", settings.get("image_processor_type", _TYPE))
    if kind != _TYPE and resize not in (None, needed_size):
        raise WeightsError(f"{file}: size is {resize!r}, but here it is always {needed_size}: {_REMEDY}")


def _normalisation(file: Path, settings: Mapping[str, Any]) -> tuple[Colours, Colours]:
    """Mean and standard deviation of each colour, of pixels from 0 to 1."""
    mean, std = (
        _colours(file, key, settings.get(key, default))
        if settings.get("do_normalize", True)
        else _colours(file, key, d)
        for key, default, d in (("image_mean", IMAGENET_MEAN, 0.0), ("image_std", IMAGENET_STD, 1.0))
    )
    factor = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
    brightest = 255 * _colours(file, "rescale_factor", factor)
    if not ((std > 0).all() and (brightest > 0).all()):
        raise WeightsError(f"{file}: image_std {std.tolist()} or rescale_factor {factor!r} is not above 0: {_REMEDY}")
    return mean / brightest, std / brightest


def _colours(file: Path, key: str, value: Any) -> Colours:
    """A value for each colour, or one for all."""
    values = list(value) if isinstance(value, list | tuple) else [value] * 3
    if len(values) != 3 or not all(type(v) in (int, float) and abs(v) < 1e6 for v in values):
        raise WeightsError(f"{file}: {key} is {value!r:.60}: a finite number for each of three colours belongs there")
    return np.array(values, np.float64)
