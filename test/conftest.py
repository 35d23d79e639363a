"""What every test starts from."""

import pytest


@pytest.fixture
def torch_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's kernels only, as on a machine where ours were not built."""
    monkeypatch.setattr("saccade_ros.encoder.amx.library", lambda: None)
