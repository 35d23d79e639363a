"""Cost of the gate as a fraction of the step that it may save: `saccade bench gate`."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from saccade_ros.backends.base import Backend
from saccade_ros.config import Config, EncoderConfig
from saccade_ros.frames import Observation, Pixels, TokenPlan
from saccade_ros.knobs import Settings, knob
from saccade_ros.measure.progress import Progress, subrange
from saccade_ros.measure.records import record_head
from saccade_ros.measure.timing import interleave, spread
from saccade_ros.pipeline import Pipeline, patch_response
from saccade_ros.plan.gate import SurpriseGate
from saccade_ros.plan.patch_change import PatchChange
from saccade_ros.plan.stages import Planner


@dataclass(frozen=True)
class Options(Settings):
    """Encoder and gate to time."""

    rounds: int = knob(20, "Steps to time.", at_least=1)
    config: Config = Config(encoder=EncoderConfig(model="vitl"))


def run(options: Options, progress: Progress) -> dict[str, Any]:
    """Time the decision, the patch embedding and the cached step on a full ring, in turn, in one run."""
    config = options.config
    progress("loading the model", 0.0)
    gate, tokens = replace(config.gate, enabled=True), replace(config.tokens, select="all")
    backend = Pipeline(replace(config, gate=gate, tokens=tokens)).backend
    info, load = backend.info, GateWorkload(config, backend)
    calls = {"embed_ms": load.embed, "skip_ms": load.skip, "open_ms": load.open, "step_ms": load.step}
    for n in range(info.window):
        progress("filling the cache", 0.5 * n / info.window)
        load.embed()
        load.step()
    load.open()
    times_ms = interleave(calls, options.rounds, progress=subrange(progress, 0.5, 0.5))
    medians_ms = {name: spread(times).median for name, times in times_ms.items()}
    return {
        "bench": "gate",
        **record_head(info.weights, info.weights_sha256),
        "model": info.model,
        "window": info.window,
        "precision": info.precision,
        "threads": info.threads,
        **medians_ms,
        "runs": options.rounds,
        "gate_fraction": max(medians_ms["skip_ms"], medians_ms["open_ms"]) / medians_ms["step_ms"],
        "embed_fraction": medians_ms["embed_ms"] / medians_ms["step_ms"],
    }


class GateWorkload:
    """Stages of one stream before its step, and the step, each to be timed by itself.

    The picture is textured and moves, so that the gate does all its work: noise, prediction, and a new reference each
    time it opens.
    """

    def __init__(self, config: Config, backend: Backend) -> None:
        self._backend, self._state = backend, backend.new_state()
        self._planner = Planner((SurpriseGate(config.gate, PatchChange(patch_response(backend)), backend.info.window),))
        self._pictures = itertools.cycle(_drifting(backend.info.input_size, 8))
        self._stamp_ns = 0
        self.embed()
        self._dense = TokenPlan.dense(len(self._embedded.features), "dense")

    def embed(self) -> None:
        """Embed the patches of the next picture."""
        self._pixels = next(self._pictures)
        self._embedded = self._backend.embed(self._pixels)
        self._stamp_ns += 1

    def skip(self) -> None:
        """Decide on the picture and leave it out."""
        self._plan(TokenPlan.reuse())

    def open(self) -> None:
        """Decide on the picture and make it the reference."""
        self._plan(self._dense)

    def step(self) -> None:
        """Encode the picture."""
        self._state.step(self._embedded.patches)

    def _plan(self, plan: TokenPlan) -> None:
        seen = Observation(self._embedded.features, self._stamp_ns, self._pixels)
        self._planner.propose(seen)
        self._planner.commit(seen, plan)


def _drifting(size: int, count: int) -> Iterator[Pixels]:
    """Noise that moves by 4 pixels a tubelet, (2, 3, size, size) each."""
    wide = np.random.default_rng(0).normal(0, 1, (3, size, size + 4 * count)).astype(np.float32)
    return (np.stack([wide[:, :, 4 * i : 4 * i + size]] * 2) for i in range(count))


def table(record: dict[str, Any]) -> str:
    """Write a line per stage, with its fraction of the step."""
    step = record["step_ms"]
    lines = [f"{record['model']}, window {record['window']}, {record['precision']}, {record['threads']} threads"]
    for name, key in (
        ("gate, tubelet skipped", "skip_ms"),
        ("gate, tubelet encoded", "open_ms"),
        ("patch embedding", "embed_ms"),
        ("cached step", "step_ms"),
    ):
        lines.append(f"  {name:24}{record[key]:9.2f} ms  {record[key] / step:7.2%} of the step")
    lines.append("  An encoded tubelet's patch embedding is the step's own first layer; only a skipped one's is extra.")
    lines.append(f"  medians of {record['runs']}; {record['machine']}")
    return "\n".join(lines)
