"""The figures of an evaluation, and what must be true of them whatever the weights."""

import json

import numpy as np
import pytest
from clips import write_video

from saccade_ros.backends import load_backend
from saccade_ros.cli import main
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.measure.progress import silent
from saccade_ros.studies.fidelity import curves, measure_fidelity
from saccade_ros.studies.forgetting import bounce, forgotten_after, measure_forgetting, receptive_field
from saccade_ros.studies.streamed import stream

WINDOW = 4


def load(encoder: EncoderConfig):
    return load_backend(encoder, BackendConfig(threads=1))


def clip(tubelets: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    still, moving = random.normal(size=(1, 1, 3, 128, 128)), random.normal(size=(tubelets, 2, 3, 128, 128))
    return (still + 0.5 * moving).astype(np.float32)


def test_full_recompute_reads_one_and_the_mean_rises_towards_it():
    rows = measure_fidelity(EncoderConfig(model="tiny", window=WINDOW), [clip(12), clip(10, 1)], load, silent)
    by_recompute = {row["recompute"]: row for row in rows if row["curve"].startswith("window W")}
    assert sorted(by_recompute) == [1, 2, 3, 4]
    assert by_recompute[WINDOW]["worst"] == pytest.approx(1.0, abs=1e-5)
    means = [by_recompute[r]["mean"] for r in range(1, WINDOW + 1)]
    assert means == sorted(means)
    assert means[0] < 1 - 1e-6
    for row in rows:
        assert row["worst"] <= row["p5"] <= row["mean"]
        assert len(row["clips"]) == 2


def test_settings_are_every_recompute_and_halved_windows():
    named = {c.name: [(s.window, s.recompute) for s in c.settings] for c in curves(EncoderConfig(window=8))}
    assert named["window W, r = 1..W"] == [(8, r) for r in range(1, 9)]
    assert named["smaller windows, r = 1"] == [(1, 1), (2, 1), (4, 1)]
    assert named["smaller windows, r = W"] == [(2, 2), (4, 4)]
    adapted = curves(EncoderConfig(window=8, adapter="a"))
    assert [bool(s.adapter) for c in adapted for s in c.settings].count(True) == 4


@pytest.mark.parametrize("recompute", [1, 2, 3, 4])
def test_receptive_field_is_exact(recompute):
    """The newest tubelet that cannot matter does not, to the bit; the oldest that can does."""
    config = EncoderConfig(model="tiny", window=WINDOW, recompute=recompute)
    backend, field = load(config), receptive_field(4, WINDOW, recompute)
    shared = clip(field + 1)
    touched = shared.copy()
    touched[0] = clip(1, seed=9)[0]  # seen at step 0
    differs = [
        not np.array_equal(a, b) for a, b in zip(*(stream(backend, c).vectors for c in (shared, touched)), strict=True)
    ]
    assert differs == [True] * field + [False]


def test_event_is_forgotten_exactly_when_the_receptive_field_has_passed():
    config = EncoderConfig(model="tiny", window=WINDOW)
    rows = measure_forgetting(config, clip(9), clip(6, 5), load, silent)
    assert [(row["recompute"], row["receptive_field"]) for row in rows] == [(1, 13), (2, 10), (4, 4)]
    for row in rows:
        gone = row["receptive_field"]
        assert row["trace"][gone - 2] > 0
        assert set(row["trace"][gone - 1 :]) == {0.0}
        assert row["trace"][0] > 0.01
        assert 0 < row["forgotten_after"]["0.1"] <= row["forgotten_after"]["0.001"] < gone


def test_forgetting_by_hand():
    assert forgotten_after([1.0, 0.5, 0.05, 0.2, 0.04, 0.0], 0.1) == 4  # it came back at the fourth
    assert forgotten_after([1.0, 0.5], 0.1) is None


def test_bounced_clip_has_no_cut():
    played = bounce(np.arange(4), 11).tolist()
    assert played == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2]
    assert bounce(np.arange(1), 3).tolist() == [0, 0, 0]


def test_command_writes_picture_and_json_that_name_the_weights(tmp_path, capsys):
    files = [write_video(tmp_path / f"{name}.mp4", frames=24, hold=hold) for name, hold in (("one", 3), ("two", 2))]
    settings = ["encoder.model=tiny", "encoder.window=4", "stream.fps=0", "backend.threads=1"]
    options = [part for setting in settings for part in ("--set", setting)]
    assert main(["evaluate", "fidelity", *map(str, files), *options, "--out", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "fidelity.json").read_text())
    assert record["weights"] == "RANDOM weights, size tiny, seed 0"
    assert record["clips"] == [{"name": "one.mp4", "tubelets": 12}, {"name": "two.mp4", "tubelets": 12}]
    best = next(row for row in record["fidelity"] if (row["window"], row["recompute"]) == (4, 4))
    assert best["worst"] == pytest.approx(1.0, abs=1e-5)
    assert (tmp_path / "out" / "fidelity.png").stat().st_size > 10_000
    printed = " ".join(capsys.readouterr().out.split())  # the table wraps as wide as it is
    assert "RANDOM weights, size tiny" in printed
    assert "fidelity.json" in printed


def test_clip_shorter_than_the_window_is_refused(tmp_path, capsys):
    file = write_video(tmp_path / "short.mp4", frames=10)
    assert main(["evaluate", "fidelity", str(file), "--set", "encoder.model=tiny", "--set", "stream.fps=0"]) == 1
    assert "has 5 tubelets, hardly more than the window of 8" in capsys.readouterr().err
