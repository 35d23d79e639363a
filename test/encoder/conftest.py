"""A random V-JEPA 2 saved in transformers' own format, and the same one loaded by us."""

from pathlib import Path

import pytest
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


@pytest.fixture
def load(checkpoint: Path):
    """Load the checkpoint with a window and a lookback."""

    def load_with(window: int, lookback: int = 1):
        return load_encoder(str(checkpoint), window, lookback).encoder

    return load_with
