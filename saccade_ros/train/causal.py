"""Distillation of the bidirectional clip encoder into the cached step: `saccade train causal`.

Teacher: for each tubelet n, the clip encoder over the window that ends in n; its tokens of n. Student: the cached step
with recompute 1 and an adapter on every attention layer's qkv and proj. Both see the past only; they differ in that
the student's older keys and values were made before the newer tubelets came. The loss is the fraction of the student's
error that is left: of the tokens, and of their mean, which is what is published.

The teacher gives targets for any picture, so no example is seen twice: every step draws a new view of a clip. With a
fixed set of views the adapter would learn the set.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from saccade_ros.encoder.adapter import Adapter, LowRank, target_layers
from saccade_ros.encoder.model import StreamingEncoder
from saccade_ros.knobs import Settings, knob
from saccade_ros.measure.metrics import centred_cosine
from saccade_ros.storage import whole_path
from saccade_ros.train.schedule import warm_cosine
from saccade_ros.train.stream import clip_tokens, stream_tokens
from saccade_ros.train.views import random_view

WARM_UP_STEPS = 20  # the learning rate rises over these, then falls as a cosine
WEIGHT_DECAY = 0.01
MAX_GRADIENT_NORM = 1.0


class TrainingError(ValueError):
    """Training that cannot start as asked. The message names the value and the remedy."""


@dataclass(frozen=True)
class TrainingPlan(Settings):
    """Settings that decide the result of a training, beside its clips, weights and window."""

    rank: int = knob(16, "Rank of the low-rank changes.", at_least=1)
    alpha: float = knob(16.0, "Scale of the changes, times 1/rank.")
    steps: int = knob(1200, "Steps of the optimizer.", at_least=1)
    learning_rate: float = knob(
        3e-4,
        "Learning rate at its highest. Too high a rate moves the mean of all embeddings, which the cosine of a still "
        "scene shows first.",
        at_least=0.0,
    )
    seed: int = knob(0, "Seed of the adapter's start and of the views.", at_least=0)
    every: int = knob(100, "Steps between two measurements and checkpoints.", at_least=1)


def example_span(window: int) -> int:
    """Count the tubelets of one training example: enough for targets whose whole window had full windows itself."""
    return 3 * window


def first_target(window: int) -> int:
    """Return the index of the first tubelet of a training example that has a target."""
    return 2 * (window - 1)


class TrainingExample(NamedTuple):
    """Stretch of tubelets, with targets for its end.

    Attributes:
        patches: patch embeddings, (T, S, D).
        targets: the teacher's tokens of the last n tubelets, (n, S, D).
        unadapted: the cached step's without an adapter, (n, S, D).
    """

    patches: Tensor
    targets: Tensor
    unadapted: Tensor


@dataclass
class TrainingState:
    """Progress of a training.

    Attributes:
        losses: of the steps since the last measurement.
        history: a row per measurement: step, mean of the losses (not at the start), gap on each held-out clip.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)


@torch.no_grad()
def prepare(teacher: StreamingEncoder, pixels: Tensor, first: int) -> TrainingExample:
    """Make a training example of pixels (T, 2, 3, H, W), with targets for the tubelets from `first` on."""
    patches = torch.stack([teacher.embed(tubelet) for tubelet in pixels]).clone()  # no inference tensor: for autograd
    return TrainingExample(patches, clip_tokens(teacher, patches, first), stream_tokens(teacher, patches)[first:])


class CausalTrainer:
    """Training of one adapter, in steps that a checkpoint can be taken of.

    Args:
        teacher: as load_encoder gives it, with a window of at least 2.
        folder: for checkpoint.pt and adapter.safetensors.

    Raises:
        TrainingError: the window is 1, where the cached step has no gap to the clip encoder.
    """

    def __init__(
        self, teacher: StreamingEncoder, base_sha256: str, plan: TrainingPlan, clips: Sequence[str], folder: Path
    ) -> None:
        if teacher.window < 2:
            raise TrainingError(f"window is {teacher.window}: give at least 2; at 1 there is nothing to learn")
        self.plan, self.clips, self.folder = plan, tuple(clips), folder
        self.state = TrainingState()
        self._teacher, self._base_sha256 = teacher, base_sha256
        self._student = _student_of(teacher)
        self._random = torch.Generator().manual_seed(plan.seed)
        self._changes: dict[str, LowRank] = {}
        for name, linear in target_layers(self._student).items():
            self._changes[name] = LowRank(linear, plan.rank, plan.alpha, self._random)
            parametrize.register_parametrization(linear, "weight", self._changes[name])
        parameters = [p for change in self._changes.values() for p in change.parameters()]
        self._optimizer = torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=WEIGHT_DECAY)

    @property
    def checkpoint(self) -> Path:
        """File that training can be taken up from again."""
        return self.folder / "checkpoint.pt"

    def run(self, clips: Sequence[Tensor], held_out: Sequence[Tensor]) -> Iterator[TrainingState]:
        """Train to the last step of the plan, from the state on that there is; yield the state after every step.

        Args:
            clips: pixels (T, 2, 3, B, B), larger than the encoder's input by views.MARGIN.
            held_out: pixels (T, 2, 3, H, W) of what is measured on.
        """
        full = self._teacher.window - 1  # where the window has filled, as `evaluate fidelity` measures
        tests = [prepare(self._teacher, pixels, full) for pixels in held_out]
        if not self.state.step:
            self._measure(tests)
        while self.state.step < self.plan.steps:
            self._step(clips)
            if self.state.step % self.plan.every == 0 or self.state.step == self.plan.steps:
                self._measure(tests)
                self.save()
            yield self.state

    def _step(self, clips: Sequence[Tensor]) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * warm_cosine(self.state.step, self.plan.steps, WARM_UP_STEPS)
        self._optimizer.zero_grad()
        loss = example_loss(self._student, self._new_example(clips))
        loss.backward()
        parameters = self._optimizer.param_groups[0]["params"]
        torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        self._optimizer.step()
        self.state.step += 1
        self.state.losses.append(loss.item())

    def _new_example(self, clips: Sequence[Tensor]) -> TrainingExample:
        clip = clips[int(torch.randint(len(clips), (1,), generator=self._random))]
        window = self._teacher.window
        view = random_view(clip, self._teacher.spec.input_size, example_span(window), self._random)
        return prepare(self._teacher, view, first_target(window))

    @torch.no_grad()
    def _measure(self, tests: Sequence[TrainingExample]) -> None:
        row: dict[str, Any] = {"step": self.state.step}
        row |= {"loss": statistics.fmean(self.state.losses)} if self.state.losses else {}
        row |= {"gaps": [centred_gap(_student_tokens(self._student, example), example.targets) for example in tests]}
        self.state.history.append(row)
        self.state.losses.clear()

    def adapter(self) -> Adapter:
        """Return the adapter as learned so far."""
        parts = {f"{name}.{part}": getattr(c, part) for name, c in self._changes.items() for part in ("down", "up")}
        tensors = {name: tensor.detach().clone() for name, tensor in parts.items()}
        trained = {"window": self._teacher.window, **asdict(self.plan)}
        trained |= {"clips": list(self.clips), "step": self.state.step}
        return Adapter(self._base_sha256, self.plan.rank, self.plan.alpha, tensors, trained)

    # Checkpoints

    def save(self) -> None:
        """Write everything that training goes on from, whole or not at all; and the adapter as it is."""
        state = {
            "identity": self._identity(),
            "progress": asdict(self.state),
            "adapter": {name: change.state_dict() for name, change in self._changes.items()},
            "optimizer": self._optimizer.state_dict(),
            "random": self._random.get_state(),
        }
        with whole_path(self.checkpoint) as path:
            torch.save(state, path)
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
        self.state = TrainingState(**state["progress"])

    def _identity(self) -> dict[str, Any]:
        weights = {"weights": self._base_sha256, "window": self._teacher.window}
        return {**weights, **asdict(self.plan), "clips": list(self.clips)}


def _student_of(teacher: StreamingEncoder) -> StreamingEncoder:
    """Make an encoder on the teacher's own weights, not on copies of them: training leaves them as they are."""
    with torch.device("meta"):
        student = StreamingEncoder(teacher.spec, teacher.window)
    student.load_state_dict(teacher.state_dict(), assign=True)
    return student.requires_grad_(False)


def example_loss(student: StreamingEncoder, example: TrainingExample) -> Tensor:
    """Compute the fraction of the error that is left: 1 for the step without adapter, 0 for the teacher.

    It is the mean of two fractions: of the tokens' error, and of their mean's. As fractions, a scene in which little
    happens counts as much as one that is all cuts, whose errors are far larger. The errors are lengths, not squares:
    else the few views that an adapter makes worse would outweigh all others.
    """
    tokens = _student_tokens(student, example)
    of_tokens = _fraction_left(tokens, example.unadapted, example.targets)
    of_means = _fraction_left(*(part.mean(dim=1) for part in (tokens, example.unadapted, example.targets)))
    return (of_tokens + of_means) / 2


def _fraction_left(ours: Tensor, before: Tensor, wanted: Tensor) -> Tensor:
    fraction: Tensor = torch.linalg.vector_norm(ours - wanted) / torch.linalg.vector_norm(before - wanted)
    return fraction


def _student_tokens(student: StreamingEncoder, example: TrainingExample) -> Tensor:
    """Tokens of the student where the example has targets: (n, S, D)."""
    return stream_tokens(student, example.patches)[-len(example.targets) :]


def centred_gap(tokens: Tensor, targets: Tensor) -> float:
    """Compute 1 - centred cosine of the pooled embeddings, averaged over the clip: (n, S, D) each."""
    ours, theirs = (part.mean(dim=1).numpy() for part in (tokens, targets))  # (n, D)
    return 1 - float(centred_cosine(ours, theirs).mean())
