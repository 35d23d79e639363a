"""Linear probe: multinomial logistic regression on embeddings, fitted in full batches, the same every time.

Minimised is the mean cross-entropy plus strength / 2 times the squared weights, on values standardised by the train
split alone; the bias is free. L-BFGS (Liu and Nocedal 1989) in float64.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from saccade_ros.heads import LinearHead
from saccade_ros.recordings.labelled import TEST, TRAIN, LabelledClip, count_labels, of_split
from saccade_ros.studies.streamed import Vectors

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
USUAL_STRENGTH = 1e-2  # where there are too few clips to choose by
FOLDS = 3
ITERATIONS = 100

Doubles = npt.NDArray[np.float64]


def fit_linear(vectors: Vectors, labels: Sequence[str], strength: float) -> LinearHead:
    """Fit a classifier of embeddings (N, dim), with their N labels; it takes them as they are, not standardised."""
    names = sorted(set(labels))
    mean, deviation = vectors.mean(axis=0, dtype=np.float64), vectors.std(axis=0, dtype=np.float64)  # (dim,)
    deviation = np.where(deviation > 0, deviation, 1.0)
    weight, bias = _minimise((vectors - mean) / deviation, np.array([names.index(label) for label in labels]), strength)
    return LinearHead(weight / deviation, bias - weight @ (mean / deviation), names)


def _minimise(inputs: Doubles, label_idx: npt.NDArray[np.int64], strength: float) -> tuple[Doubles, Doubles]:
    """Weight (classes, dim) and bias (classes,) for inputs (N, dim) and labels (N,)."""
    x, y = torch.from_numpy(inputs), torch.from_numpy(label_idx)
    classes = int(label_idx.max()) + 1
    weight = torch.zeros(classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS((weight, bias), max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> float:
        """Compute the loss and its gradient."""
        solver.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, bias), y) + strength / 2 * weight.square().sum()
        value.backward()
        return float(value.detach())

    solver.step(loss)
    return weight.detach().numpy(), bias.detach().numpy()


def choose_strength(vectors: Vectors, labels: Sequence[str], origins: Sequence[str]) -> float:
    """Choose the strength with the least cross-entropy on held-out thirds of the train split.

    Args:
        origins: of each vector, N names; vectors of one origin stay together.

    Returns:
        USUAL_STRENGTH if some label has fewer than three origins.
    """
    folds = _folds(labels, origins)
    if any(set(folds[np.array(labels) == label]) < set(range(FOLDS)) for label in set(labels)):
        return USUAL_STRENGTH
    losses = [sum(_held_out_loss(vectors, labels, folds == fold, s) for fold in range(FOLDS)) for s in STRENGTHS]
    return STRENGTHS[int(np.argmin(losses))]


def _folds(labels: Sequence[str], origins: Sequence[str]) -> npt.NDArray[np.int64]:
    """Fold of each vector, (N,): the origins of a label take turns."""
    pairs, turns = sorted(set(zip(labels, origins, strict=True))), Counter[str]()
    fold_of = {}
    for label, origin in pairs:
        fold_of[label, origin] = turns[label] % FOLDS
        turns[label] += 1
    return np.array([fold_of[pair] for pair in zip(labels, origins, strict=True)])


def _held_out_loss(vectors: Vectors, labels: Sequence[str], held_out: npt.NDArray[np.bool_], strength: float) -> float:
    """Cross-entropy of the vectors that are held out, summed."""
    head = fit_linear(
        vectors[~held_out], [label for label, out in zip(labels, held_out, strict=True) if not out], strength
    )
    total = 0.0
    for vector, label in zip(vectors[held_out], np.array(labels)[held_out], strict=True):
        scores = head.logits(vector).astype(np.float64)
        total += float(np.logaddexp.reduce(scores) - scores[head.labels.index(label)])
    return total


class Named(NamedTuple):
    """Names that a probe gave the test clips, in their order, and the strength that it was fitted with."""

    names: list[str]
    strength: float


def probe_linearly(vectors: Vectors, clips: Sequence[LabelledClip]) -> Named:
    """Fit on the vectors (N, dim) of the train split, name those of the test split.

    Args:
        clips: that the vectors are of.
    """
    trains = np.array([clip.split == TRAIN for clip in clips])
    train = of_split(clips, TRAIN)
    labels = [clip.label for clip in train]
    strength = choose_strength(vectors[trains], labels, [clip.origin for clip in train])
    head = fit_linear(vectors[trains], labels, strength)
    return Named([head.classify(vector).label for vector in vectors[~trains]], strength)


def score_labels(names: Sequence[str], clips: Sequence[LabelledClip]) -> dict[str, float]:
    """Compute the fraction of the clips of each label that were named rightly."""
    right: dict[str, list[bool]] = {label: [] for label in count_labels(clips)}
    for name, clip in zip(names, clips, strict=True):
        right[clip.label].append(name == clip.label)
    return {label: sum(those) / len(those) for label, those in right.items()}


def chance_level(clips: Sequence[LabelledClip]) -> float:
    """Compute the fraction of the test split that bears the train split's most frequent label."""
    counts, test = count_labels(of_split(clips, TRAIN)), of_split(clips, TEST)
    most = max(counts, key=lambda label: counts[label])
    return sum(clip.label == most for clip in test) / len(test)
