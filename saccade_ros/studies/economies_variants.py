"""Variants of the economies study: ways to compute fewer tokens, or each at less cost, as settings of a stream."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from saccade_ros.backends import Backend
from saccade_ros.backends.torch_backend import TorchBackend
from saccade_ros.config import Config
from saccade_ros.encoder.merging import TokenMerging
from saccade_ros.encoder.spec import ModelSpec
from saccade_ros.encoder.weights import load_encoder
from saccade_ros.frames import Figures, Observation, TokenPlan
from saccade_ros.pipeline import Pipeline
from saccade_ros.studies.kv_reuse import ReusingBackend, reuse_keys_and_values

DENSE, CHANGED = "dense", "changed"
AREA_GRID, AREA_LAYERS = "2x2", (1 / 2, 3 / 4)  # of the layers attend by area


class Variant(NamedTuple):
    """One way to encode a stream.

    Attributes:
        family: what it is an example of, for the picture.
        config: of its stream.
        encoder: plain, or what no setting names: scrambled (merged tokens keep the first places of the grid) or reusing
            (kv_reuse.py).
        plans: tokens it computes. own: as its config says. changed: those that `changed` computed. A gate.policy: whole
            tubelets, chosen by that gate, until as many tokens are computed as `changed` did.
        repeats: True for one that is there already, measured again at the end.
    """

    name: str
    family: str
    config: Config
    encoder: str = "plain"
    plans: str = "own"
    repeats: bool = False

    @property
    def turns(self) -> int:
        """1 if it takes turns with the variants that need nothing of others, 2 with those that come after."""
        return 1 if self.plans == "own" and not self.repeats else 2


def variants(config: Config, spec: ModelSpec) -> Iterator[Variant]:
    """Yield every variant, dense first and last; `changed` before those that follow it.

    Args:
        config: sampling, gate, thresholds and backend; the variants choose what is selected, merged and cut in areas.
    """
    dense = base(config)
    changed = _with(dense, tokens={"select": "changed"}, gate={"enabled": True})
    threshold, tokens, gate = config.tokens.threshold, config.tokens, config.gate
    yield Variant(DENSE, "dense", dense)
    yield Variant(CHANGED, "selection", changed)
    for name, factor in (("/2", 0.5), ("*2", 2.0)):
        scaled = _with(changed, tokens={"threshold": factor * threshold})
        yield Variant(f"changed, threshold{name}", "selection", scaled)
    yield Variant(f"ratio {tokens.ratio:g}", "selection", _with(changed, tokens={"select": "ratio"}))
    yield Variant(f"error {tokens.psnr_db:g} dB", "selection", _with(changed, tokens={"select": "error"}))
    yield Variant(f"gate, tau {gate.tau:g}", "gate", _with(dense, gate={"enabled": True}))
    yield Variant("gate, as changed", "gate", dense, plans="predicted")
    yield Variant("pixels, as changed", "gate", dense, plans="pixels")
    yield Variant("KV-only, as changed", "KV-only reuse", dense, encoder="reusing", plans="changed")
    for merge in merges(spec):
        merging = _with(dense, encoder={"merge": merge})
        yield Variant(f"merge {merge}", "merging", merging)
        yield Variant(f"merge {merge}, scrambled", "merging", merging, encoder="scrambled")
    for part in AREA_LAYERS:
        layers = round(part * spec.depth)
        in_areas = {"area_grid": AREA_GRID, "area_layers": layers}
        yield Variant(f"areas {AREA_GRID} in {layers} of {spec.depth}", "areas", _with(dense, encoder=in_areas))
    yield Variant("int8", "int8", _with(dense, backend={"precision": "int8"}))
    yield Variant(f"changed, areas in {layers}", "combined", _with(changed, encoder=in_areas))
    yield Variant("changed, int8", "combined", _with(changed, backend={"precision": "int8"}))
    yield Variant(f"{DENSE}, again", "dense", dense, repeats=True)


def base(config: Config) -> Config:
    """Switch every economy off. Frames come sampled and square (economies.py), so the stream takes each as it is."""
    return _with(
        config,
        stream={"fps": 0.0},
        vision={"fit": "stretch"},
        gate={"enabled": False, "mode": "fixed", "calibrated_for": ""},
        tokens={"select": "all"},
        encoder={"merge": 0, "area_layers": 0, "recompute": 1, "pooling": "newest", "head": ""},
    )


def merges(spec: ModelSpec) -> list[int]:
    """Tokens merged per layer: 1, 2, and what leaves half of the tokens after the last layer; each once."""
    return sorted({1, 2, round(spec.tokens / 2 / spec.depth)})


def _with(config: Config, **sections: dict[str, Any]) -> Config:
    """Replace fields of a config's sections."""
    return replace(config, **{name: replace(getattr(config, name), **changed) for name, changed in sections.items()})


class Encoders:
    """Loaded encoders, each once however many variants it serves."""

    def __init__(self) -> None:
        self._backends: dict[tuple[object, ...], Backend] = {}

    def open(self, variant: Variant) -> Pipeline:
        """Open the pipeline of a variant.

        Raises:
            WeightsError, ConfigError, ValueError: the model cannot be used.
            RuntimeError: this machine cannot compute the variant; says why.
        """
        key = variant.config.encoder, variant.config.backend, variant.encoder
        if key not in self._backends:
            self._backends[key] = _load(variant)
        pipeline = Pipeline(variant.config, self._backends[key])
        pipeline.warm_up()
        return pipeline


def _load(variant: Variant) -> Backend:
    encoder, backend = variant.config.encoder, variant.config.backend
    loaded = load_encoder(
        encoder.model,
        encoder.window,
        seed=encoder.seed,
        adapter=encoder.adapter,
        merge=encoder.merge,
        input_size=encoder.input_size,
    )
    if variant.encoder == "scrambled":
        loaded.encoder.merging = TokenMerging(loaded.encoder.spec, encoder.merge, _first_places)
    projections = reuse_keys_and_values(loaded.encoder) if variant.encoder == "reusing" else None
    in_torch = TorchBackend(encoder, backend, loaded, variant.config.vision.fit)
    return in_torch if projections is None else ReusingBackend(in_torch, projections)


def _first_places(centroids: Tensor, grid: Tensor) -> Tensor:
    """Place the n tokens left at the first n places of the grid, wherever they come from."""
    return grid[: len(centroids)]  # (n, 2)


class Scheduled:
    """Stage that plans each tubelet as it was planned before; for one recording without a break."""

    def __init__(self, plans: Sequence[TokenPlan]) -> None:
        self._plans, self._next = plans, 0

    def propose(self, seen: Observation, plan: TokenPlan) -> TokenPlan:
        """Keep the tokens of the schedule."""
        return self._plans[self._next]

    def commit(self, seen: Observation, plan: TokenPlan) -> None:
        """Go on to the next tubelet."""
        self._next += 1

    def reset(self) -> None:
        """Begin with the first tubelet."""
        self._next = 0

    def state(self) -> Figures:
        """Report nothing."""
        return {}


def whole_tubelets(encoded: npt.NDArray[np.bool_], tokens: int) -> list[TokenPlan]:
    """Plan all tokens of these tubelets (T,), and none of the others."""
    return [TokenPlan.dense(tokens, "scheduled") if one else TokenPlan.reuse() for one in encoded]
