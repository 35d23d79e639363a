"""A recorded run: same recording, same bytes. Recorded anew when embeddings came to be trusted less with age.

test/data/golden.npz holds vectors, decisions, novelty and reasons of five settings. Vectors are the same bytes on the
processor and torch they were recorded with; elsewhere sums have other last bits, and they agree to rounding.
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from scenes import frames_of, textured, tiny_config

from saccade_ros.config import BackendConfig, EncoderConfig, GateConfig
from saccade_ros.frames import Picture
from saccade_ros.measure.machine import describe_machine
from saccade_ros.pipeline import Pipeline

RECORDED = np.load(Path(__file__).parent / "data" / "golden.npz")
SETTINGS = {
    "gated": {"gate": GateConfig(tau=0.05)},
    "open": {
        "gate": GateConfig(enabled=False),
        "encoder": EncoderConfig(model="tiny", window=3, recompute=2, pooling="window"),
    },
    "budget": {"gate": GateConfig(mode="budget", budget_fraction=0.4)},
    "bf16": {"gate": GateConfig(tau=0.1), "backend": BackendConfig(precision="bf16", threads=1)},
    "wide": {
        "gate": GateConfig(tau=0.1, max_skip_s=0.3),
        "encoder": EncoderConfig(model="tiny", window=5, recompute=5, normalize=True),
    },
}


def pictures() -> list[Picture]:
    """48 frames of two scenes: still, a small mover, a pan, an exposure step, a cut; whole numbers only."""
    drawn = []
    for i in range(48):
        scene, moment = textured(seed=i // 24), i % 24
        if moment >= 6:
            x = 60 + 6 * moment
            scene[100:128, x : x + 28] = (200, 40, 40)
        if 12 <= moment < 18:
            scene = np.roll(scene, 5 * (moment - 12), axis=1)
        if moment >= 20:
            scene = (scene.astype(np.uint16) * 3 // 4).astype(np.uint8)
        drawn.append(scene)
    return drawn


def recorded_here() -> bool:
    """True on the kind of processor, and with the torch, that the run was recorded with."""
    processor = describe_machine().startswith("AMD EPYC,") and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return processor and torch.__version__.startswith("2.13.0")


def test_pictures_are_the_recorded_ones():
    digest = hashlib.sha256(b"".join(picture.tobytes() for picture in pictures())).hexdigest()
    assert digest == str(RECORDED["pictures_sha256"])


@pytest.mark.parametrize("name", SETTINGS)
def test_vectors_and_decisions_are_the_recorded_ones(name):
    stream = Pipeline(tiny_config(**SETTINGS[name])).open_stream()
    results = [result for result in map(stream.push, frames_of(pictures())) if result is not None]
    assert [r.encoded for r in results] == RECORDED[f"{name}_encoded"].tolist()
    assert [r.reason for r in results] == RECORDED[f"{name}_reason"].tolist()
    novelty = np.array([r.novelty for r in results])
    vectors, expected = np.stack([r.vector for r in results]), RECORDED[f"{name}_vectors"]
    if recorded_here():
        assert novelty.tobytes() == RECORDED[f"{name}_novelty"].tobytes()
        assert vectors.tobytes() == expected.tobytes()
    scale = float(np.abs(expected).max())
    assert np.allclose(novelty, RECORDED[f"{name}_novelty"], rtol=1e-4, atol=1e-6, equal_nan=True)
    assert np.abs(vectors - expected).max() <= scale * (2e-2 if name == "bf16" else 1e-5)
