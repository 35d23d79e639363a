"""A random V-JEPA 2 saved in transformers' own format, and the same one loaded by us."""

from pathlib import Path

import pytest
import torch
from reference_model import make_reference
from transformers import VJEPA2Model

from saccade_ros.encoder.weights import load_encoder


@pytest.fixture(scope="session")
def reference() -> VJEPA2Model:
    return make_reference()


@pytest.fixture(scope="session")
def checkpoint(reference: VJEPA2Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    reference.save_pretrained(folder)
    return folder


@pytest.fixture(params=["chosen kernels", "torch's kernels"])
def load(checkpoint: Path, request: pytest.FixtureRequest):
    """Load the checkpoint with a window and a recompute, on the CPU in fp32: with what is fastest here, and without."""
    if request.param == "torch's kernels":
        request.getfixturevalue("torch_kernels")

    def load_with(window: int, recompute: int = 1):
        return load_encoder(str(checkpoint), window, recompute).encoder.prepare(torch.device("cpu"), torch.float32)

    return load_with
