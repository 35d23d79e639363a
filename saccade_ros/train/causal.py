"""Distil the bidirectional clip encoder into the cached step: `saccade train causal`.

Teacher: for each tubelet n, the clip encoder over the window that ends in n; its tokens of n. Student: the cached step
with lookback 1 and an adapter on every attention layer's qkv and proj. Both see the past only, so all that the
teacher knows is in the student's reach: it lacks only that older tubelets' keys and values were made before the
newer ones came. The loss is the squared error of the tokens plus that of their mean, which is what is published.
"""

import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import parametrize

from saccade_ros.encoder.adapter import Adapter, LowRank, target_layers
from saccade_ros.encoder.model import StreamingEncoder
from saccade_ros.train.stream import stream_tokens

WARM_UP_STEPS = 20  # the learning rate rises over these, then falls as a cosine
WEIGHT_DECAY = 0.01
MAX_GRADIENT_NORM = 1.0
FLOOR = 0.05  # share of the median


class TrainingError(ValueError):
    """Training that cannot start as asked. The message names the value and the remedy."""


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that decides the result, beside the clips.

    Attributes:
        model: as encoder.model. window: tubelets in the cache.
        rank, alpha: of the adapter's changes.
        views: examples made of each clip, each another crop, mirroring, direction and light.
        learning_rate: at its highest. Too high a rate moves the mean of all embeddings, which a still scene's cosine
            shows first.
        seed: of the views, the adapter's start and the order of the examples.
        every: steps between two measurements and checkpoints.
    """

    model: str
    window: int = 8
    rank: int = 8
    alpha: float = 16.0
    steps: int = 600
    views: int = 25
    learning_rate: float = 2e-4
    seed: int = 0
    every: int = 50

    def __post_init__(self) -> None:
        for name in ("window", "rank", "steps", "views", "every"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} is {getattr(self, name)}: give at least 1")

    @property
    def span(self) -> int:
        """Tubelets of one example. The loss is taken where every tubelet in the window had a full window itself."""
        return 3 * self.window

    @property
    def settled(self) -> int:
        """First tubelet of an example that the loss is taken of."""
        return 2 * (self.window - 1)


class Lesson(NamedTuple):
    """A clip, prepared.

    Attributes:
        patches: patch embeddings, (T, S, D).
        targets: the teacher's tokens of each tubelet, (T, S, D).
    """

    patches: Tensor
    targets: Tensor


@dataclass
class Progress:
    """How far training is. `history` has a row per measurement: step, loss (not at the start), held-out gap."""

    step: int = 0
    loss: float = float("nan")
    history: list[dict[str, float]] = field(default_factory=list)


def prepare(encoder: StreamingEncoder, pixels: Tensor, advance: Callable[[], None]) -> Lesson:
    """Let the teacher, an encoder whose lookback is its window, see a clip (T, 2, 3, H, W)."""
    ring = encoder.new_ring()
    patches, targets = [], []
    for tubelet in pixels:
        embedded = encoder.embed(tubelet)
        targets.append(encoder.step([embedded], [ring])[0].tokens[-1])
        patches.append(embedded)
        advance()
    return Lesson(torch.stack(patches).clone(), torch.stack(targets).clone())  # no inference tensors: for autograd


class CausalTrainer:
    """Trains one adapter; `run` goes on from wherever the last checkpoint in `folder` stands.

    Args:
        teacher: as load_encoder gives it, with lookback = window; its attention is adapted in place once the lessons
            are prepared.
        folder: for checkpoint.pt, adapter.safetensors and training.json.
    """

    def __init__(
        self, teacher: StreamingEncoder, base_sha256: str, plan: TrainingPlan, clips: Sequence[str], folder: Path
    ) -> None:
        self.plan, self.clips, self.folder = plan, tuple(clips), folder
        self.progress = Progress()
        self._encoder, self._base_sha256 = teacher, base_sha256
        self._random = torch.Generator().manual_seed(plan.seed)
        self._changes: dict[str, LowRank] = {}
        for name, linear in target_layers(teacher).items():
            self._changes[name] = LowRank(linear, plan.rank, plan.alpha, self._random)
            parametrize.register_parametrization(linear, "weight", self._changes[name])
        parameters = [p for change in self._changes.values() for p in change.parameters()]
        self._optimizer = torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=WEIGHT_DECAY)

    @property
    def checkpoint(self) -> Path:
        """Where training can be taken up again."""
        return self.folder / "checkpoint.pt"

    def run(self, lessons: Sequence[Lesson], held_out: Sequence[Lesson]) -> Iterator[Progress]:
        """Train to the last step of the plan; yields after every step."""
        loss_of = _Loss(lessons, self.plan.settled)
        if not self.progress.step:
            self._measure(held_out)
        while self.progress.step < self.plan.steps:
            self._step(len(lessons), loss_of)
            if self.progress.step % self.plan.every == 0 or self.progress.step == self.plan.steps:
                self._measure(held_out)
                self.save()
            yield self.progress

    def _step(self, lessons: int, loss_of: "_Loss") -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * _schedule(self.progress.step, self.plan.steps)
        self._optimizer.zero_grad()
        loss = loss_of(self._encoder, int(torch.randint(lessons, (1,), generator=self._random)))
        loss.backward()
        parameters = self._optimizer.param_groups[0]["params"]
        torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        self._optimizer.step()
        self.progress.step += 1
        self.progress.loss = float(loss.detach())

    @torch.no_grad()
    def _measure(self, held_out: Sequence[Lesson]) -> None:
        full = slice(self.plan.window - 1, None)  # where the window has filled, as `evaluate fidelity` measures
        gaps = [
            centred_gap(stream_tokens(self._encoder, lesson.patches)[full], lesson.targets[full]) for lesson in held_out
        ]
        row = {"step": float(self.progress.step)}
        row |= {"loss": self.progress.loss} if self.progress.step else {}
        row |= {"held_out_gap": sum(gaps) / len(gaps)} if gaps else {}
        self.progress.history.append(row)

    def adapter(self) -> Adapter:
        """What has been learned so far."""
        parts = {f"{name}.{part}": getattr(c, part) for name, c in self._changes.items() for part in ("down", "up")}
        tensors = {name: tensor.detach().clone() for name, tensor in parts.items()}
        trained = {**asdict(self.plan), "clips": list(self.clips), "step": self.progress.step}
        return Adapter(self._base_sha256, self.plan.rank, self.plan.alpha, tensors, trained)

    # Checkpoints

    def save(self) -> None:
        """Write everything that training goes on from, whole or not at all; and the adapter as it is."""
        state = {
            "identity": self._identity(),
            "progress": asdict(self.progress),
            "adapter": {name: change.state_dict() for name, change in self._changes.items()},
            "optimizer": self._optimizer.state_dict(),
            "random": self._random.get_state(),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / ".checkpoint.pt.partial"
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)
        self.adapter().save(self.folder / "adapter.safetensors")

    def resume(self) -> None:
        """Take up training from the checkpoint.

        Raises:
            TrainingError: there is none, or it is of another training.
        """
        if not self.checkpoint.is_file():
            raise TrainingError(f"{self.checkpoint} does not exist: nothing to resume; leave --resume out")
        state = torch.load(self.checkpoint, weights_only=True)
        for name, value in self._identity().items():
            if state["identity"][name] != value:
                raise TrainingError(
                    f"{self.checkpoint} was trained with {name} {state['identity'][name]}, not {value}: "
                    "ask for the same, or train into another folder"
                )
        for name, change in self._changes.items():
            change.load_state_dict(state["adapter"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._random.set_state(state["random"])
        self.progress = Progress(**state["progress"])

    def _identity(self) -> dict[str, Any]:
        return {**asdict(self.plan), "clips": list(self.clips), "weights": self._base_sha256}


class _Loss:
    """Squared error of a lesson's tokens and of their means, each in units of how much the teacher's vary in it.

    The mean's unit has a floor, or a still scene, whose embedding hardly varies, would outweigh all others.
    """

    def __init__(self, lessons: Sequence[Lesson], first: int) -> None:
        self._lessons, self._first = lessons, first
        settled = [lesson.targets[first:] for lesson in lessons]
        self._token_variance = sum(_variance(targets.flatten(0, 1)) for targets in settled) / len(settled)
        of_means = [_variance(targets.mean(dim=1)) for targets in settled]
        floor = FLOOR * statistics.median(of_means)
        self._mean_variances = [max(floor, variance) for variance in of_means]

    def __call__(self, encoder: StreamingEncoder, lesson_idx: int) -> Tensor:
        patches, targets = self._lessons[lesson_idx]
        error = (stream_tokens(encoder, patches) - targets)[self._first :]  # (n, S, D)
        of_mean = error.mean(dim=1).square().mean() / self._mean_variances[lesson_idx]
        return error.square().mean() / self._token_variance + of_mean


def _variance(vectors: Tensor) -> float:
    """Mean squared distance from their mean, per channel: (N, D)."""
    return float((vectors - vectors.mean(dim=0)).square().mean())


def centred_gap(tokens: Tensor, targets: Tensor) -> float:
    """1 - cosine of the pooled embeddings, both less the targets' mean over the clip, averaged: (T, S, D) each."""
    ours, theirs = tokens.mean(dim=1), targets.mean(dim=1)  # (T, D)
    middle = theirs.mean(dim=0)
    return float(1 - F.cosine_similarity(ours - middle, theirs - middle).mean())


def _schedule(step: int, steps: int) -> float:
    """Share of the highest learning rate: linear warm-up, then half a cosine to zero."""
    if step < WARM_UP_STEPS:
        return (step + 1) / WARM_UP_STEPS
    done = (step - WARM_UP_STEPS) / max(1, steps - WARM_UP_STEPS)
    return 0.5 * (1 + float(torch.cos(torch.tensor(done * torch.pi))))
