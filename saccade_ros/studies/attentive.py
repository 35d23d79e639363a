"""Attentive probe: one learned query that gathers a clip's tokens by cross-attention, then a linear classifier.

As V-JEPA evaluates its encoders (Bardes et al. 2024, section 4.1), with a probe of one layer. Trained by AdamW
(Loshchilov and Hutter 2019) on tokens that the frozen encoder gave once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from saccade_ros.backends.torch_backend import TorchBackend
from saccade_ros.encoder.probe import AttentiveProbe
from saccade_ros.encoder.spec import ModelSpec
from saccade_ros.encoder.weights import fill_randomly
from saccade_ros.frames import Vector
from saccade_ros.knobs import Settings, knob
from saccade_ros.measure.progress import Progress
from saccade_ros.recordings.clip import Clip
from saccade_ros.studies.columns import evenly
from saccade_ros.studies.streamed import Vectors
from saccade_ros.train.schedule import warm_cosine

BATCH = 16  # clips
WEIGHT_DECAY = 0.1
WARM_UP = 0.1  # fraction of the steps in which the learning rate rises


@dataclass(frozen=True)
class AttentivePlan(Settings):
    """Training of the attentive probe."""

    prefix: ClassVar[str] = "attentive"

    token_tubelets: int = knob(
        8, "Tubelets, spread evenly over a clip, whose tokens the attentive probe sees; 0 trains none.", at_least=0
    )
    epochs: int = knob(20, "Passes of the attentive probe over the train split.", at_least=1)
    learning_rate: float = knob(1e-3, "Highest learning rate of the attentive probe.", at_least=1e-8, at_most=1.0)
    seed: int = knob(0, "Seed of the attentive probe's weights and of the order of the clips.", at_least=0)


def stream_tokens(backend: TorchBackend, clip: Clip) -> Iterator[tuple[Vector, Tensor]]:
    """Encode every tubelet of a clip; yield its embedding (dim,) and its tokens (S, D)."""
    state = backend.new_state()
    for pixels in clip.pixels:
        vector = state.step(backend.embed(pixels).patches)
        yield vector, state.tokens


class TokenColumn:
    """Column of the encoder that keeps the tokens of each clip it embeds, in clips' order, for the attentive probe.

    They are kept in half precision: 2 S D bytes a tubelet, half a megabyte for ViT-L at 256 px.

    Args:
        file: empty, to keep them in.
        at_most: tubelets of a clip whose tokens are kept, evenly spread.
    """

    def __init__(self, backend: TorchBackend, file: IO[bytes], at_most: int) -> None:
        self._backend, self._file, self._at_most = backend, file, at_most
        self._ends = [0]  # tokens written, after each clip

    def __call__(self, clip: Clip) -> Vectors:
        """Embed a clip (T, dim), and keep its tokens."""
        kept_idx = evenly(len(clip), self._at_most)
        vectors, written = [], self._ends[-1]
        for n, (vector, tokens) in enumerate(stream_tokens(self._backend, clip)):
            vectors.append(vector)
            if n in kept_idx:
                self._file.write(tokens.half().cpu().numpy().data)
                written += len(tokens)
        self._ends.append(written)
        return np.stack(vectors)

    @property
    def device(self) -> str:
        """Device of the encoder, where the probe is trained, too."""
        return self._backend.info.device

    @property
    def spec(self) -> ModelSpec:
        """Sizes of the encoder."""
        return self._backend.spec

    def read(self, n: int) -> Tensor:
        """Read the tokens of the n-th clip that was embedded: (N, D), fp32, on the encoder's device."""
        start, end, width = self._ends[n], self._ends[n + 1], self.spec.width
        self._file.flush()
        self._file.seek(start * width * 2)
        values = np.frombuffer(self._file.read((end - start) * width * 2), np.float16)
        tokens = torch.from_numpy(values.astype(np.float32)).view(end - start, width)  # (N, D)
        return tokens.to(self.device)


def train_attentive(
    tokens: TokenColumn, clip_idx: Sequence[int], labels: Sequence[str], plan: AttentivePlan, progress: Progress
) -> AttentiveProbe:
    """Train a probe; on a CPU the same arguments give the same probe.

    Args:
        clip_idx: which of the embedded clips to train on.
        labels: of these, in the same order.
    """
    names = tuple(sorted(set(labels)))
    probe = _new_probe(tokens.spec, names, plan.seed).to(tokens.device)
    solver = torch.optim.AdamW(probe.parameters(), plan.learning_rate, weight_decay=WEIGHT_DECAY)
    batches = list(_batches(len(labels), plan))
    warm_up = max(1, round(WARM_UP * len(batches)))
    rates = torch.optim.lr_scheduler.LambdaLR(solver, lambda step: warm_cosine(step, len(batches), warm_up))
    for step, batch in enumerate(batches):
        progress("training the attentive probe", step / len(batches))
        solver.zero_grad()
        for i in batch:
            target = torch.tensor(names.index(labels[i]), device=tokens.device)
            loss = F.cross_entropy(_logits(probe, tokens.read(clip_idx[i])), target) / len(batch)
            loss.backward()
        solver.step()
        rates.step()
    return probe


def _new_probe(spec: ModelSpec, labels: tuple[str, ...], seed: int) -> AttentiveProbe:
    """A probe of random weights, independent of torch's global seed."""
    with torch.device("meta"):
        probe = AttentiveProbe(spec, depth=0, labels=labels)
    probe = probe.to_empty(device="cpu")
    fill_randomly(probe, seed)
    torch.nn.init.normal_(probe.query, std=0.02, generator=torch.Generator().manual_seed(seed))
    return probe


def _batches(count: int, plan: AttentivePlan) -> Iterator[npt.NDArray[np.int64]]:
    """Indices of the clips of each step, in a new order in every epoch."""
    rng = np.random.default_rng(plan.seed)
    for _ in range(plan.epochs):
        order = rng.permutation(count)
        yield from (order[start : start + BATCH] for start in range(0, count, BATCH))


def _logits(probe: AttentiveProbe, tokens: Tensor) -> Tensor:
    logits: Tensor = probe.classifier(probe(tokens))  # (classes,)
    return logits


@torch.no_grad()
def name_clips(probe: AttentiveProbe, tokens: TokenColumn, clip_idx: Sequence[int]) -> list[str]:
    """Name each of these clips."""
    return [probe.labels[int(_logits(probe, tokens.read(n)).argmax())] for n in clip_idx]
