"""Heads: linear classifiers that name an embedding, a checkpoint's own or one's own."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from saccade_ros.frames import Vector
from saccade_ros.storage import home_path, write_file

FORMAT = "saccade-linear-head-1"


class HeadError(ValueError):
    """A classifier that cannot be used. The message names it and the remedy."""


class Classification(NamedTuple):
    """The likeliest class of an embedding.

    Attributes:
        label: its name; empty without a classifier.
        score: its probability by softmax, 0 to 1; NaN without a classifier.
    """

    label: str
    score: float


UNCLASSIFIED = Classification("", float("nan"))


class Head(Protocol):
    """Anything that names an embedding."""

    def classify(self, vector: Vector) -> Classification:
        """Name one embedding (dim,)."""
        ...


class NoHead:
    """A head that names nothing."""

    def classify(self, vector: Vector) -> Classification:
        """See Head."""
        return UNCLASSIFIED


class LinearHead:
    """Softmax over `weight @ vector + bias`.

    Args:
        weight: (classes, dim). bias: (classes,). labels: a name for each class.
        encoder_id: of the encoder whose embeddings it was trained on; "" if that is not known.

    Raises:
        HeadError: weight, bias and labels do not fit each other.
    """

    def __init__(self, weight: npt.ArrayLike, bias: npt.ArrayLike, labels: Sequence[str], encoder_id: str = "") -> None:
        self.weight: npt.NDArray[np.float32] = np.ascontiguousarray(weight, np.float32)
        self.bias: npt.NDArray[np.float32] = np.ascontiguousarray(bias, np.float32)
        self.labels, self.encoder_id = tuple(labels), encoder_id
        if self.weight.ndim != 2 or not len(self.weight) == self.bias.size == len(self.labels) > 0:
            raise HeadError(
                f"head has weight {self.weight.shape}, bias {self.bias.shape} and {len(self.labels)} labels: "
                "give (classes, dim), (classes,) and a label for each class"
            )

    def logits(self, vector: Vector) -> npt.NDArray[np.float32]:
        """Compute the scores before softmax, (classes,), of an embedding (dim,).

        Raises:
            HeadError: the vector is of another size.
        """
        if vector.shape != self.weight.shape[1:]:
            raise HeadError(f"the head takes vectors of {self.weight.shape[1]} values, the encoder gives {vector.size}")
        scores: npt.NDArray[np.float32] = self.weight @ vector + self.bias
        return scores

    def classify(self, vector: Vector) -> Classification:
        """See Head."""
        scores = self.logits(vector)
        likeliest = int(scores.argmax())
        return Classification(self.labels[likeliest], float(1 / np.exp(scores - scores[likeliest]).sum()))

    def save(self, file: Path) -> None:
        """Write a safetensors file for `encoder.head`, whole or not at all.

        It holds the tensors weight and bias, and metadata: format, encoder_id, and the labels as a JSON list.
        """
        from safetensors.numpy import save  # only here and in load_head: a robot without a head needs none of it

        metadata = {"format": FORMAT, "encoder_id": self.encoder_id, "labels": json.dumps(self.labels)}
        write_file(file, save({"weight": self.weight, "bias": self.bias}, metadata))


def load_head(file: Path, encoder_id: str, dim: int) -> LinearHead:
    """Read a head that LinearHead.save wrote, for one encoder.

    Args:
        encoder_id: of the encoder whose embeddings it is to name.
        dim: their length.

    Raises:
        HeadError: the file cannot be read, is of another kind, or is for another encoder; says which.
    """
    head = _read(home_path(file))
    if head.encoder_id not in ("", encoder_id):
        raise HeadError(
            f"encoder.head {file}: was trained for {head.encoder_id!r}, but the encoder is {encoder_id!r}, whose "
            "embeddings mean nothing to it: train a head on embeddings of this encoder"
        )
    if head.weight.shape[1] != dim:
        raise HeadError(
            f"encoder.head {file}: takes vectors of {head.weight.shape[1]} values, the encoder gives {dim}: "
            "train a head on embeddings of this encoder"
        )
    return head


def _read(file: Path) -> LinearHead:
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as missing:
        raise HeadError(
            f"encoder.head {file}: cannot be read without safetensors: pip install safetensors"
        ) from missing
    try:
        with safe_open(file, framework="numpy") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError) as broken:
        raise HeadError(f"encoder.head {file}: cannot be read ({broken}); give what LinearHead.save wrote") from broken
    if metadata.get("format") != FORMAT:
        raise HeadError(f"encoder.head {file}: is no {FORMAT}; give a file that LinearHead.save wrote")
    try:
        return LinearHead(tensors["weight"], tensors["bias"], json.loads(metadata["labels"]), metadata["encoder_id"])
    except (KeyError, TypeError, ValueError) as broken:
        raise HeadError(f"encoder.head {file}: is damaged ({broken}); give what LinearHead.save wrote") from broken
