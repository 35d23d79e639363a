"""`make test-arm`: what it says of two replays, and where it cannot run. The emulation itself is not tested here."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parents[1] / ".ci" / "arm.py"


@pytest.fixture(scope="module")
def arm():
    spec = importlib.util.spec_from_file_location("arm", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("difference", "computed", "pixels", "status", "said"),
    [
        (4.8e-7, 64, 0.03, 0, "ok, 3 embeddings of the same pixels, largest difference 4.8e-07"),
        (1e-3, 64, 0.0, 1, "FAILED, 3 embeddings"),
        (0.0, 63, 0.0, 1, "FAILED, tokens computed differ"),
        (0.0, 64, 0.5, 1, "differ by 29 grey levels"),
        (np.nan, 64, 0.0, 1, "FAILED, 3 embeddings"),
    ],
)
def test_replays_agree_to_rounding_or_fail(arm, tmp_path, capsys, difference, computed, pixels, status, said):
    vectors, square = np.ones((3, 4)), np.zeros((3, 2, 3, 8, 8))
    np.savez(tmp_path / "here.npz", vectors=vectors, computed=np.full(3, 64), pixels=square)
    np.savez(tmp_path / "arm.npz", vectors=vectors + difference, computed=np.full(3, computed), pixels=square + pixels)
    assert arm.compare(tmp_path / "here.npz", tmp_path / "arm.npz") == status
    assert said in capsys.readouterr().out


def test_missing_emulator_is_told_with_its_package(arm, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert arm.main(tmp_path / "clip.mp4", tmp_path / "out") == 1
    assert "apt install qemu-user-static" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
