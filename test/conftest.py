"""What every test starts from."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _full_floating_point():
    """A session of ONNX Runtime makes the thread that runs it take denormals for zero, which hypothesis refuses."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def torch_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's kernels only, as on a machine where ours were not built."""
    monkeypatch.setattr("saccade_ros.encoder.amx.library", lambda: None)
