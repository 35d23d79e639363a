"""Hours of token selection in a minute: memory, ages, and tokens that drift from what they should be."""

import os
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


@pytest.mark.timeout(600)  # a minute of one core that is free
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads its memory from /proc")
def test_twelve_thousand_tubelets_leave_memory_flat_and_no_token_old_or_adrift():
    pipeline = make_pipeline(gate=GateConfig(enabled=False), tokens=TokensConfig(max_age_s=MAX_AGE_S))
    scene, stream = textured(SIDE, SIDE), pipeline.open_stream()
    computed, sizes, oldest = np.zeros(S, np.int64), [], 0
    for n in range(LIVELY):
        chosen = show(stream, picture(scene, n), n)
        computed[chosen] = n
        oldest = max(oldest, n - int(computed.min()))
        sizes.append(len(chosen))
        if n == LIVELY // 5:
            before = resident_bytes()
    assert resident_bytes() - before < 4e6
    assert oldest * 2 * PERIOD_NS / 1e9 < MAX_AGE_S
    assert 0 < np.mean(sizes) < 0.8 * S, "selection was at work"

    still = picture(scene, 0)
    for n in range(LIVELY, LIVELY + STILL):
        computed[show(stream, still, n)] = n
        assert (n - computed.min()) * 2 * PERIOD_NS / 1e9 < MAX_AGE_S
    dense = make_pipeline(gate=GateConfig(enabled=False)).open_stream()
    for n in range(4 * SPEC.depth * WINDOW):
        show(dense, still, n)
    ours, theirs = (s._encoding._state.tokens for s in (stream, dense))
    assert float((ours - theirs).abs().max() / theirs.abs().max()) <= 1e-4
