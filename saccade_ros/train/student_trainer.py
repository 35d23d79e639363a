"""Training of a student on a target cache, in steps that a checkpoint can be taken of. No teacher runs in it."""

import pickle
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saccade_ros.encoder.released import check_released, save_released
from saccade_ros.encoder.spec import ModelSpec
from saccade_ros.encoder.weights import save_transformers
from saccade_ros.knobs import Settings, knob
from saccade_ros.storage import whole_path
from saccade_ros.train.augment import augmented_pixels, plain_pixels
from saccade_ros.train.cache import TargetCache
from saccade_ros.train.causal import TrainingError
from saccade_ros.train.schedule import warm_cosine
from saccade_ros.train.student import LossWeights, Student, Targets, make_targets

MAX_GRADIENT_NORM = 1.0
BETAS = (0.9, 0.95)
MOTION_FROM, MOTION_RISE = 1 / 3, 10.0  # the flow's weight rises by this factor after this fraction of the steps
ROPE_GRID = 16  # of V-JEPA 2.1


@dataclass(frozen=True)
class StudentPlan(Settings):
    """Settings that decide the result of a training, beside its cache."""

    depth: int = knob(8, "Layers (L).", at_least=1)
    width: int = knob(192, "Width (D).", at_least=6)
    heads: int = knob(3, "Attention heads (A).", at_least=1)
    rope: str = knob("tiled", "Rotary layout: V-JEPA 2's, or V-JEPA 2.1's.", choices=("tiled", "interleaved"))
    clip_tubelets: int = knob(4, "Tubelets of a training example, a stretch of a view.", at_least=1)
    batch: int = knob(24, "Training examples in a step.", at_least=2)
    whole_views: float = knob(
        0.3,
        "Fraction of the steps, the last ones, that train on whole views, and on as many fewer at a time.",
        at_least=0.0,
        at_most=1.0,
    )
    steps: int = knob(4000, "Steps of the optimizer.", at_least=1)
    learning_rate: float = knob(1e-3, "Learning rate at its highest.", at_least=0.0)
    warm_up: int = knob(200, "Steps over which the learning rate rises.", at_least=1)
    weight_decay: float = knob(0.05, "Weight decay of matrices.", at_least=0.0)
    ema: float = knob(0.998, "Decay of the averaged weights, which are the result.", at_least=0.0, at_most=0.99999)
    hidden: float = knob(0.5, "Fraction of the patches that are not encoded (tube masking).", at_least=0.0, at_most=0.9)
    bidirectional: float = knob(
        0.15,
        "Fraction of the steps in which every tubelet sees every other, as recompute = window has it.",
        at_least=0.0,
    )
    augmented: bool = knob(True, "True changes illumination, noise and blur of what the student sees.")
    overfit: int = knob(0, "Views to train on, the first of the cache, without augmentation. 0 takes all.", at_least=0)
    seed: int = knob(0, "Seed of the start, the order of the views, and the augmentation.", at_least=0)
    every: int = knob(100, "Steps between two rows of the history, and checkpoints.", at_least=1)
    weights: LossWeights = LossWeights()


@dataclass
class StudentState:
    """Progress of a training.

    Attributes:
        losses: of the steps since the last row, by part.
        history: a row for every `every` steps: step, and the mean of each part at the plan's weights.
    """

    step: int = 0
    losses: dict[str, list[float]] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


class StudentTrainer:
    """Training of one student.

    Args:
        folder: for the checkpoint and the result.

    Raises:
        TrainingError: the plan does not suit the cache.
        ConfigError, WeightsError: there is no such student, or no file could tell its sizes.
    """

    def __init__(self, cache: TargetCache, plan: StudentPlan, folder: Path) -> None:
        self.cache, self.plan, self.folder, self.state = cache, plan, folder, StudentState()
        self.spec = _spec_of(plan, folder.name, cache.plan.side)
        window = min(cache.plan.tubelets, self.spec.trained_tubelets)
        _check(plan, cache, window)
        if self.spec.rope != "tiled":
            check_released(self.spec, self.result)
        width = cache.read(np.array([0])).pooled.shape[-1]
        self.student = Student(self.spec, window, width, plan.hidden, plan.seed)
        self._averaged = {name: tensor.clone() for name, tensor in self.student.state_dict().items()}
        self._optimizer = torch.optim.AdamW(_groups(self.student, plan.weight_decay), plan.learning_rate, betas=BETAS)

    @property
    def checkpoint(self) -> Path:
        """File that training can be taken up from again."""
        return self.folder / "checkpoint.pt"

    @property
    def result(self) -> Path:
        """Path that encoder.model names the student by: the folder, in transformers' format, or a .pt file in it.

        The file is for the interleaved layout, which transformers has not.
        """
        return self.folder if self.spec.rope == "tiled" else self.folder / f"model_{self.spec.input_size}.pt"

    def run(self) -> Iterator[StudentState]:
        """Train to the last step of the plan, from the state on that there is; yield the state after every step."""
        while self.state.step < self.plan.steps:
            self._step()
            if self.state.step % self.plan.every == 0 or self.state.step == self.plan.steps:
                self._note()
                self.save()
            yield self.state

    def _step(self) -> None:
        step, plan = self.state.step, self.plan
        random = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)  # of the step alone, so nothing to resume
        for group in self._optimizer.param_groups:
            group["lr"] = plan.learning_rate * warm_cosine(step, plan.steps, plan.warm_up)
        pixels, targets = self._example(step, random)
        causal = float(torch.rand((), generator=random)) >= plan.bidirectional
        rise = motion_rise(step, plan.steps)
        weights = replace(plan.weights, flow_weight=rise * plan.weights.flow_weight)
        losses = self.student(pixels, targets, causal, weights, random)
        self._optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), MAX_GRADIENT_NORM)
        self._optimizer.step()
        self._average(step)
        self.state.step += 1
        for name, loss in losses.items():
            self.state.losses.setdefault(name, []).append(loss.item() / (rise if name == "flow" else 1.0))

    def _example(self, step: int, random: torch.Generator) -> tuple[Tensor, Targets]:
        """Normalised pixels of a batch, and its targets."""
        plan, longest = self.plan, self.cache.plan.tubelets
        tubelets = plan.clip_tubelets if step < (1 - plan.whole_views) * plan.steps else longest
        views = max(2, plan.batch * plan.clip_tubelets // tubelets)
        first = int(torch.randint(longest - tubelets + 1, (), generator=random))
        batch = self.cache.read(self._numbers(step)[:views]).stretch(first, tubelets)
        if plan.augmented and not plan.overfit:
            pixels = augmented_pixels(batch.pictures, np.random.default_rng([plan.seed, step]))
        else:
            pixels = plain_pixels(batch.pictures)
        return pixels, make_targets(batch, self.spec)

    def _numbers(self, step: int) -> npt.NDArray[np.int64]:
        """Views of a step: each epoch goes through all of them in its own order."""
        views, batch = self.plan.overfit or self.cache.views, self.plan.batch
        places = np.arange(step * batch, (step + 1) * batch)
        orders = {e: np.random.default_rng([self.plan.seed, e]).permutation(views) for e in np.unique(places // views)}
        return np.array([orders[place // views][place % views] for place in places])

    def _average(self, step: int) -> None:
        decay = min(self.plan.ema, (1 + step) / (10 + step))
        for name, tensor in self.student.state_dict().items():
            self._averaged[name].lerp_(tensor, 1 - decay)

    def _note(self) -> None:
        row = {name: statistics.fmean(values) for name, values in self.state.losses.items()}
        self.state.history.append({"step": self.state.step, "loss": sum(row.values()), **row})
        self.state.losses.clear()

    # Checkpoints

    def save(self) -> None:
        """Write the averaged student, then everything that training goes on from.

        In this order: training that is killed in between writes the student once more.
        """
        encoder = {n.removeprefix("encoder."): t for n, t in self._averaged.items() if n.startswith("encoder.")}
        if self.spec.rope == "tiled":
            save_transformers(self.spec, encoder, self.folder)
        else:
            save_released(self.spec, encoder, self.result)
        state = {
            "identity": self._identity(),
            "progress": asdict(self.state),
            "student": self.student.state_dict(),
            "averaged": self._averaged,
            "optimizer": self._optimizer.state_dict(),
        }
        with whole_path(self.checkpoint) as path:
            torch.save(state, path)

    def resume(self) -> None:
        """Take up training from the checkpoint.

        Raises:
            TrainingError: there is none, it cannot be read, or it is of another training.
        """
        if not self.checkpoint.is_file():
            raise TrainingError(f"{self.checkpoint} does not exist: nothing to resume; leave --resume out")
        state = _read_checkpoint(self.checkpoint)
        for name, value in self._identity().items():
            if (found := state["identity"].get(name)) != value:
                raise TrainingError(
                    f"{self.checkpoint} was trained with {name} {found}, not {value}: "
                    "ask for the same, or train into another folder"
                )
        self.student.load_state_dict(state["student"])
        self._averaged = state["averaged"]
        self._optimizer.load_state_dict(state["optimizer"])
        self.state = StudentState(**state["progress"])

    def _identity(self) -> dict[str, Any]:
        return {"cache": self.cache.digest, **asdict(self.plan)}


def _spec_of(plan: StudentPlan, name: str, side: int) -> ModelSpec:
    """Sizes of the student. The interleaved layout is V-JEPA 2.1's, whose positions are stretched to its grid."""
    spec = ModelSpec(name, plan.width, plan.depth, plan.heads, side)
    return replace(spec, rope="interleaved", rope_grid=ROPE_GRID) if plan.rope == "interleaved" else spec


def _check(plan: StudentPlan, cache: TargetCache, window: int) -> None:
    if plan.clip_tubelets > window:
        raise TrainingError(
            f"--clip-tubelets is {plan.clip_tubelets}, a view has {window} to take: give at most as many"
        )
    if plan.whole_views and cache.plan.tubelets > window:
        raise TrainingError(
            f"the cache's views have {cache.plan.tubelets} tubelets, a student's window at most {window}: "
            "give --whole-views 0, or a cache with fewer"
        )
    if plan.overfit > cache.views:
        raise TrainingError(f"--overfit is {plan.overfit}, the cache has {cache.views} views: give at most as many")


def _read_checkpoint(file: Path) -> dict[str, Any]:
    try:
        return dict(torch.load(file, weights_only=True))
    except (RuntimeError, EOFError, ValueError, TypeError, pickle.UnpicklingError) as broken:
        reason = str(broken).partition("\n")[0]
        raise TrainingError(f"{file} cannot be read ({reason}): train again in another folder") from broken


def motion_rise(step: int, steps: int) -> float:
    """Return the factor of the flow's weight. Motion is learned late: from scratch it is not, beside the rest."""
    return MOTION_RISE if step >= MOTION_FROM * steps else 1.0


def _groups(student: Student, decay: float) -> list[dict[str, Any]]:
    """Matrices, which decay, and vectors, which do not."""
    parameters = list(student.parameters())
    matrices, vectors = ([p for p in parameters if (p.ndim > 1) == flat] for flat in (True, False))
    return [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
