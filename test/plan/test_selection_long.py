"""Hours of token selection in a minute: memory, ages, and tokens that drift from what they should be."""

import os
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from scenes import PERIOD_NS, textured, tiny_config

from saccade_ros.backends.torch_backend import TorchBackend
from saccade_ros.config import BackendConfig, Config, EncoderConfig, GateConfig, TokensConfig
from saccade_ros.encoder.model import StreamingEncoder
from saccade_ros.encoder.spec import ModelSpec
from saccade_ros.encoder.weights import LoadedEncoder
from saccade_ros.frames import Frame, Picture
from saccade_ros.pipeline import Pipeline, Stream

SPEC = ModelSpec("smallest", width=192, depth=2, heads=3, input_size=64)
WINDOW, SIDE, S = 3, 64, 16
LIVELY, STILL = 10_000, 2_000  # tubelets; half a minute of stream are 375
MAX_AGE_S = 10.0


def make_pipeline(**sections: object) -> Pipeline:
    """Two layers of random weights over 16 tokens."""
    torch.manual_seed(0)
    loaded = LoadedEncoder(StreamingEncoder(SPEC, WINDOW).requires_grad_(False), "RANDOM weights", "0" * 64, True)
    config: Config = tiny_config(encoder=EncoderConfig(window=WINDOW), **sections)
    return Pipeline(config, TorchBackend(config.encoder, BackendConfig(threads=1), loaded))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def picture(scene: Picture, tubelet: int) -> Picture:
    """A lamp in one patch that goes on and off, and in another for a while something that moves."""
    shown = scene.copy()
    shown[4:12, 4:12] = 255 if tubelet % 5 < 2 else 0
    if tubelet % 400 < 60:
        left = 16 + tubelet % 32
        shown[40:52, left : left + 10] = (200, 30, 30)
    return shown


def show(stream: Stream, shown: Picture, tubelet: int) -> np.ndarray:
    """Push one tubelet; the tokens that were computed of it."""
    for i in range(2):
        result = stream.push(Frame(shown, (2 * tubelet + i) * PERIOD_NS, "camera"))
    assert result is not None
    return result.plan.token_idx


def compute_each_count(pipeline: Pipeline, scene: Picture) -> None:
    """Compute every number of tokens once: for each, libraries set a little memory aside."""
    for count in range(1, S):
        tokens = TokensConfig(select="ratio", ratio=count / S, max_age_s=0.0)
        stream = Pipeline(replace(pipeline.config, tokens=tokens), pipeline.backend).open_stream()
        assert [len(show(stream, picture(scene, n), n)) for n in range(WINDOW + 2)][-1] == count


def long_stream() -> dict[str, float]:
    """What is measured over 10,000 lively tubelets and 2,000 still ones; ages in seconds."""
    pipeline = make_pipeline(gate=GateConfig(enabled=False), tokens=TokensConfig(max_age_s=MAX_AGE_S))
    scene, stream = textured(SIDE, SIDE), pipeline.open_stream()
    compute_each_count(pipeline, scene)
    computed, sizes, oldest, oldest_still = np.zeros(S, np.int64), [], 0, 0
    for n in range(LIVELY):
        chosen = show(stream, picture(scene, n), n)
        computed[chosen] = n
        oldest = max(oldest, n - int(computed.min()))
        sizes.append(len(chosen))
        if n == LIVELY // 5:
            before = resident_bytes()
    growth = resident_bytes() - before

    still = picture(scene, 0)
    for n in range(LIVELY, LIVELY + STILL):
        computed[show(stream, still, n)] = n
        oldest_still = max(oldest_still, n - int(computed.min()))
    dense = make_pipeline(gate=GateConfig(enabled=False)).open_stream()
    for n in range(4 * SPEC.depth * WINDOW):
        show(dense, still, n)
    ours, theirs = (s._encoding._state.tokens for s in (stream, dense))
    tubelet_s = 2 * PERIOD_NS / 1e9
    return {
        "growth_bytes": growth,
        "oldest_s": oldest * tubelet_s,
        "computed_share": float(np.mean(sizes)) / S,
        "oldest_still_s": oldest_still * tubelet_s,
        "drift": float((ours - theirs).abs().max() / theirs.abs().max()),
    }


@pytest.mark.timeout(600)  # a minute of one core that is free
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads its memory from /proc")
def test_twelve_thousand_tubelets_leave_memory_flat_and_no_token_old_or_adrift():
    with get_context("spawn").Pool(1) as process:  # of its own: what tests before left is not measured
        seen = process.apply(long_stream)
    assert seen["growth_bytes"] < 1e6
    assert seen["oldest_s"] < MAX_AGE_S
    assert 0 < seen["computed_share"] < 0.8, "selection was at work"
    assert seen["oldest_still_s"] < MAX_AGE_S
    assert seen["drift"] <= 1e-4
