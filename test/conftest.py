"""What every test starts from."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _full_floating_point():
    """A session of ONNX Runtime makes the thread that runs it take denormals for zero, which hypothesis refuses."""
    yield
    torch.set_flush_denormal(False)
