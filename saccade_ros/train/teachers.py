"""Frozen teachers, which give the targets that a student is trained on: V-JEPA 2, VideoMAE, and image models as ONNX.

Each gives features on a grid for every tubelet of a view; their mean over the grid is the pooled target.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from saccade_ros.storage import sha256_of
from saccade_ros.vision.preprocess import normalize_all

Pictures = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]


class TeacherError(ValueError):
    """A teacher that cannot be used. The message names the value and the remedy."""


class Teacher(Protocol):
    """Frozen model that gives targets.

    Attributes:
        name: what it is, for people.
        side: of its input pictures, in pixels.
        width: channels of its features (C).
        weights_sha256: of its files.
    """

    name: str
    side: int
    width: int
    weights_sha256: str

    def dense(self, views: Pictures) -> Features:
        """Compute features on the teacher's grid: (N, T, 2, side, side, 3) uint8 -> (N, T, g, g, C)."""


def load_teacher(source: str, tubelets: int) -> Teacher:
    """Load the teacher that `source` names: an .onnx file, a VideoMAE folder, or whatever encoder.model can name.

    Args:
        tubelets: of a view (T).

    Raises:
        TeacherError: a file beside it is missing or wrong, or it takes clips of another length.
        WeightsError, ConfigError: a V-JEPA 2 checkpoint cannot be loaded.
    """
    if source.endswith(".onnx"):
        return ImageTeacher(Path(source))
    if _model_type(Path(source)) == "videomae":
        return VideoMAETeacher(source, tubelets)
    return VJEPATeacher(source, tubelets)


def _model_type(folder: Path) -> str:
    """Kind of model in a folder; empty if its config.json is missing or broken, which load_encoder explains."""
    try:
        return str(dict(json.loads((folder / "config.json").read_text(encoding="utf-8"))).get("model_type", ""))
    except (OSError, ValueError, TypeError):
        return ""


def fixed_clip(tubelets: int, side: int) -> Pictures:
    """Draw the clip that a teacher is recognised by, a square moving over a ramp: (1, T, 2, side, side, 3)."""
    ramp = np.linspace(0, 255, side, dtype=np.uint8)
    still = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], ramp[::-1, None]), axis=-1)  # (side, side, 3)
    frames = np.repeat(still[None], 2 * tubelets, axis=0)
    for i, frame in enumerate(frames):
        left = i * side // (3 * tubelets)
        frame[side // 3 : side // 2, left : left + side // 4] = (250, 40, 90)
    return frames.reshape(1, tubelets, 2, side, side, 3)


def fingerprint(teacher: Teacher, tubelets: int) -> dict[str, Any]:
    """Describe a teacher so that another, or the same on a machine that computes otherwise, is noticed.

    Returns:
        name, weights_sha256, and `answer`: the first 16 channels of its pooled features of the fixed clip.

    Raises:
        TeacherError: its features are not finite.
    """
    pooled = teacher.dense(fixed_clip(tubelets, teacher.side)).mean(axis=(0, 1, 2, 3))  # (C,)
    if not np.isfinite(pooled).all():
        raise TeacherError(f"{teacher.name} gives features that are no finite numbers: repair or replace its weights")
    answer = [float(f"{value:.4g}") for value in pooled[:16]]
    return {"name": teacher.name, "weights_sha256": teacher.weights_sha256, "answer": answer}


class ImageTeacher:
    """Image model as an ONNX file: features of each tubelet's newer picture.

    A JSON file of the same name beside it declares its input: `side` in pixels, `mean` and `std` of each colour, for
    values from 0 to 1, and for the record `name` and `licence`. The graph takes (N, 3, side, side) and gives
    (N, C, g, g) or (N, C).

    Raises:
        TeacherError: the declaration is missing or wrong, or the graph cannot be run or gives something else.
    """

    def __init__(self, file: Path) -> None:
        self._declared = _read_declaration(file)
        if not file.is_file():
            raise TeacherError(f"{file} does not exist: give the file that its declaration describes")
        self.name, self.side = str(self._declared["name"]), self._declared["side"]
        self.weights_sha256 = sha256_of(file)
        self._session = _load_graph(file)
        self._input, shape = self._session.get_inputs()[0].name, self._session.get_inputs()[0].shape
        wanted = (1, 3, self.side, self.side)
        if len(shape) != 4 or any(isinstance(n, int) and n != w for n, w in zip(shape, wanted, strict=True)):
            raise TeacherError(f"{file} takes {shape}, not {wanted}: declare its side, or export it for one picture")
        self.width = self.dense(fixed_clip(1, self.side)).shape[-1]

    def dense(self, views: Pictures) -> Features:
        """See Teacher."""
        newer = views[:, :, 1].reshape(-1, *views.shape[3:])  # (N*T, side, side, 3)
        features = np.concatenate([self._of_picture(picture) for picture in newer])
        return features.reshape(*views.shape[:2], *features.shape[1:])

    def _of_picture(self, picture: npt.NDArray[np.uint8]) -> Features:
        """(side, side, 3) -> (1, g, g, C)."""
        mean, std = (np.array(self._declared[key], np.float32) for key in ("mean", "std"))
        values = (picture.astype(np.float32) / 255 - mean) / std
        outputs = self._session.run(None, {self._input: values.transpose(2, 0, 1)[None]})
        found = outputs[0]
        if len(outputs) > 1 or found.ndim not in (2, 4) or found.shape[2:3] != found.shape[3:]:
            shapes = ", ".join(str(output.shape) for output in outputs)
            raise TeacherError(f"{self.name} gives {shapes}: export one output, (N, C, g, g) or (N, C)")
        features: Features = found.reshape(*found.shape, *(1,) * (4 - found.ndim)).transpose(0, 2, 3, 1)
        return features  # (1, g, g, C)


def _load_graph(file: Path) -> Any:
    """Open a session that computes in one thread, so that its results are the same everywhere."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as refused:  # ONNX Runtime's own exceptions share no base class
        reason = str(refused).partition("\n")[0]
        raise TeacherError(f"{file} cannot be loaded by ONNX Runtime ({reason}): export it again") from refused


def _read_declaration(file: Path) -> dict[str, Any]:
    beside = file.with_suffix(".json")
    try:
        declared = json.loads(beside.read_text(encoding="utf-8"))
        missing = [key for key in ("name", "side", "mean", "std", "licence") if key not in dict(declared)]
    except (OSError, ValueError, TypeError) as broken:
        raise TeacherError(f"{beside} cannot be read ({broken}): it declares the input of {file.name}") from broken
    if missing:
        raise TeacherError(f"{beside} lacks {', '.join(missing)}: declare the input of {file.name} there")
    if not isinstance(declared["side"], int) or declared["side"] < 1:
        raise TeacherError(f"{beside} has side {declared['side']!r}: give the input's side in pixels")
    for key in ("mean", "std"):
        _check_colours(beside, key, declared[key])
    return dict(declared)


def _check_colours(beside: Path, key: str, values: Any) -> None:
    numbers = isinstance(values, list) and [v for v in values if isinstance(v, int | float)]
    if not numbers or len(numbers) != 3 or len(values) != 3 or (key == "std" and min(numbers) <= 0):
        remedy = "give three numbers, for red, green and blue" + (", above 0" if key == "std" else "")
        raise TeacherError(f"{beside} has {key} {values!r}: {remedy}")


class VJEPATeacher:
    """V-JEPA 2 as the bidirectional clip encoder over the whole view, whatever encoder.model can name."""

    def __init__(self, model: str, tubelets: int) -> None:
        from saccade_ros.encoder.weights import load_encoder

        loaded = load_encoder(model, tubelets, recompute=tubelets)
        self._encoder, self.name = loaded.encoder, loaded.source
        self.side, self.width = loaded.encoder.spec.input_size, loaded.encoder.spec.width
        self.weights_sha256 = loaded.sha256

    def dense(self, views: Pictures) -> Features:
        """See Teacher."""
        return np.stack([self._of_view(view) for view in views])

    def _of_view(self, view: Pictures) -> Features:
        import torch

        from saccade_ros.train.stream import window_tokens

        pixels = torch.from_numpy(normalize_all(view))  # (T, 2, 3, side, side)
        with torch.inference_mode():
            tokens = window_tokens(self._encoder, torch.stack([self._encoder.embed(tubelet) for tubelet in pixels]))
        grid = self._encoder.spec.grid
        features: Features = tokens.unflatten(1, (grid, grid)).numpy()  # (T, g, g, D)
        return features


class VideoMAETeacher:
    """VideoMAE of transformers (Tong et al. 2022), which takes clips of one length, most often 16 frames.

    Raises:
        TeacherError: its clips are of another length than the views, or its weights are not all in the folder.
    """

    def __init__(self, folder: str, tubelets: int) -> None:
        from transformers import VideoMAEModel

        model, report = VideoMAEModel.from_pretrained(folder, output_loading_info=True)
        if report["missing_keys"]:
            missing = sorted(report["missing_keys"])[0]
            raise TeacherError(f"{folder} lacks tensor {missing}: give a complete VideoMAE checkpoint")
        config = model.config
        if config.num_frames != 2 * tubelets or config.tubelet_size != 2:
            raise TeacherError(
                f"{folder} takes clips of {config.num_frames} frames in tubelets of {config.tubelet_size}; "
                f"views have {2 * tubelets} in tubelets of 2: give --tubelets {config.num_frames // 2}"
            )
        self._model, self._tubelets = model.float().eval(), tubelets
        self.name, self.side, self.width = f"VideoMAE {Path(folder).name}", config.image_size, config.hidden_size
        self.weights_sha256 = _hash_tensors(model.state_dict())

    def dense(self, views: Pictures) -> Features:
        """See Teacher."""
        import torch

        pixels = torch.from_numpy(normalize_all(views)).flatten(1, 2)  # (N, 2T, 3, side, side)
        with torch.inference_mode():
            tokens = self._model(pixels).last_hidden_state  # (N, T*g*g, C)
        grid = int((tokens.shape[1] / self._tubelets) ** 0.5)
        features: Features = tokens.unflatten(1, (self._tubelets, grid, grid)).numpy()  # (N, T, g, g, C)
        return features


def _hash_tensors(tensors: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
