"""What an embedding is called: a linear classifier on top of it, a checkpoint's own or one's own."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from saccade_ros.frames import Vector


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
    """Names nothing."""

    def classify(self, vector: Vector) -> Classification:
        """See Head."""
        return UNCLASSIFIED


class LinearHead:
    """Softmax over `weight @ vector + bias`.

    Args:
        weight: (classes, dim). bias: (classes,). labels: a name for each class.

    Raises:
        ValueError: the three do not fit each other.
    """

    def __init__(self, weight: npt.ArrayLike, bias: npt.ArrayLike, labels: Sequence[str]) -> None:
        self.weight: npt.NDArray[np.float32] = np.asarray(weight, np.float32)
        self.bias: npt.NDArray[np.float32] = np.asarray(bias, np.float32)
        self.labels = tuple(labels)
        if self.weight.ndim != 2 or not len(self.weight) == self.bias.size == len(self.labels) > 0:
            raise ValueError(
                f"head has weight {self.weight.shape}, bias {self.bias.shape} and {len(self.labels)} labels: "
                "give (classes, dim), (classes,) and a label for each class"
            )

    def logits(self, vector: Vector) -> npt.NDArray[np.float32]:
        """Scores before softmax, (classes,).

        Raises:
            ValueError: the vector is of another size.
        """
        if vector.shape != self.weight.shape[1:]:
            raise ValueError(
                f"the head takes vectors of {self.weight.shape[1]} values, the encoder gives {vector.size}"
            )
        scores: npt.NDArray[np.float32] = self.weight @ vector + self.bias
        return scores

    def classify(self, vector: Vector) -> Classification:
        """See Head."""
        scores = self.logits(vector)
        likeliest = int(scores.argmax())
        return Classification(self.labels[likeliest], float(1 / np.exp(scores - scores[likeliest]).sum()))
