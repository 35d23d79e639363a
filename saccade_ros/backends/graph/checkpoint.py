"""Graphs of the checkpoint that encoder.model names, made when it is loaded: nothing has to be exported before."""

from typing import NamedTuple

import numpy as np

from saccade_ros.backends.base import BackendError
from saccade_ros.backends.graph.onnx_graph import MadeGraph
from saccade_ros.backends.graph.step import Weights, build_embed, build_step
from saccade_ros.backends.manifest import ModelInfo
from saccade_ros.backends.window import Contract, Floats, StepShape
from saccade_ros.config import EncoderConfig
from saccade_ros.encoder.checkpoint import check_input_size, find_checkpoint, is_released
from saccade_ros.encoder.spec import SIZES, ModelSpec
from saccade_ros.encoder.state import allocate_state, fingerprint


class MadeStep(NamedTuple):
    """Graphs of a checkpoint's step and front end, with what an export's manifest would say of them."""

    model: ModelInfo
    shape: StepShape
    contract: Contract
    precision: str
    embed: MadeGraph
    step: MadeGraph


class _Loaded(NamedTuple):
    """Tensors of an encoder, by name, and where they are from."""

    spec: ModelSpec
    state: dict[str, Floats]
    source: str
    is_random: bool


def make_step(encoder: EncoderConfig, contract: Contract, precision: str = "fp32", branches: bool = True) -> MadeStep:
    """Make the graphs of a model in transformers' format, without torch; any other checkpoint is loaded by torch.

    Args:
        contract: writer of the cache (step.py).
        precision: fp32, fp16 or bf16; the front end is always fp32.
        branches: the graph branches inside, so that a dense step costs nothing more than where there is no other; else
            dense steps go the way of sparse ones, where there can be any.

    Raises:
        BackendError: only torch computes or reads what is asked for, and it is not installed.
        WeightsError, ConfigError, ValueError: the model cannot be used; the message says why.
        GraphError, OverflowError: see build_step.
    """
    if encoder.pooling == "probe":
        raise BackendError(
            "encoder.pooling is 'probe', which only torch computes: set backend.name torch, or pooling newest or window"
        )
    loaded = _load_by_torch(encoder) if _is_torchs(encoder) else _load(encoder)
    scale = float(np.linalg.norm(loaded.state["patch_embed.weight"].astype(np.float64)))
    digest = fingerprint(loaded.state)
    shape, weights = _shape(loaded.spec, encoder), Weights(loaded.state)
    embed = build_embed(loaded.spec, weights)
    step = build_step(shape, weights, contract, precision, "any" if branches else "sparse")
    return MadeStep(ModelInfo(loaded.source, digest, loaded.is_random, scale), shape, contract, precision, embed, step)


def _shape(spec: ModelSpec, encoder: EncoderConfig) -> StepShape:
    areas = *encoder.area_shape, encoder.area_layers
    return StepShape(spec, encoder.window, encoder.recompute, 1, encoder.merge, *areas)


def _load(encoder: EncoderConfig) -> _Loaded:
    checkpoint = find_checkpoint(encoder.model)
    check_input_size(encoder.input_size, checkpoint.spec, checkpoint.source)
    _shape(checkpoint.spec, encoder)  # what does not suit is refused before gigabytes are read
    state = allocate_state(checkpoint.spec)
    checkpoint.fill(state)
    return _Loaded(checkpoint.spec, state, checkpoint.source, is_random=False)


def _is_torchs(encoder: EncoderConfig) -> bool:
    """Tell whether torch has to load the model: its random numbers, its file format, or a product that it rounds."""
    return encoder.model in SIZES or is_released(encoder.model) or bool(encoder.adapter)


def _load_by_torch(encoder: EncoderConfig) -> _Loaded:
    try:
        from saccade_ros.encoder.weights import load_encoder, state_of
    except ModuleNotFoundError as missing:
        raise BackendError(
            f"encoder.model {encoder.model!r}{' with encoder.adapter' if encoder.adapter else ''} is loaded by "
            f"{missing.name}, which is not installed: pip install saccade_ros[torch], or give 'default', a folder in "
            "transformers' format, or what `saccade export` wrote where torch is"
        ) from missing
    loaded = load_encoder(
        encoder.model,
        encoder.window,
        encoder.recompute,
        encoder.seed,
        adapter=encoder.adapter,
        merge=encoder.merge,
        input_size=encoder.input_size,
    )
    return _Loaded(loaded.encoder.spec, state_of(loaded.encoder), loaded.source, loaded.is_random)
