"""The comparison of all token economies: what must be true of its rows whatever the weights and the machine."""

import json

import numpy as np
import pytest
import torch
from clips import write_pictures
from rich.console import Console
from scenes import textured

from saccade_ros.backends.torch_backend import TorchBackend
from saccade_ros.config import BackendConfig, Config, EncoderConfig, StreamConfig
from saccade_ros.encoder.areas import Areas
from saccade_ros.encoder.spec import SIZES
from saccade_ros.encoder.weights import load_encoder
from saccade_ros.frames import TokenPlan
from saccade_ros.measure.progress import silent
from saccade_ros.studies.economies import Options, ages_s, draw, run, table
from saccade_ros.studies.economies_pictures import front
from saccade_ros.studies.economies_variants import merges, variants
from saccade_ros.studies.floor import step_work
from saccade_ros.studies.kv_reuse import ReusingBackend, reuse_keys_and_values

WINDOW, TUBELETS = 2, 12
ENCODER = EncoderConfig(model="tiny", window=WINDOW)
CONFIG = Config(stream=StreamConfig(fps=0.0), encoder=ENCODER, backend=BackendConfig(threads=1))


def moving_square() -> list[np.ndarray]:
    """A square that crosses a still picture: part of every tubelet is new."""
    pictures = []
    for i in range(2 * TUBELETS):
        picture = textured(seed=3).copy()
        picture[80:140, 40 + 8 * i : 100 + 8 * i] = 255 - picture[80:140, 40 + 8 * i : 100 + 8 * i]
        pictures.append(picture)
    return pictures


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> dict:
    clip = write_pictures(tmp_path_factory.mktemp("clips") / "square.mp4", moving_square())
    return run(Options(clips=(clip,), limit=TUBELETS, config=CONFIG), silent)


@pytest.fixture(scope="module")
def rows(record) -> dict:
    return {row["name"]: row for row in record["rows"]}


def test_every_variant_runs_here_and_is_finite(record):
    assert not record["left_out"]
    assert [row["name"] for row in record["rows"]] == [v.name for v in variants(CONFIG, SIZES["tiny"])]
    json.dumps(record, allow_nan=False)


def test_dense_measured_again_is_itself(rows):
    again = rows["dense, again"]
    assert again["share"] == again["mean"] == again["p5"] == again["worst"] == 1.0
    assert again["worst_age_s"] == 0
    assert rows["dense"]["ms_p50"] > 0


def test_gates_at_equal_compute_have_the_share_of_changed(rows):
    assert 0.02 < rows["changed"]["share"] < 0.9
    a_tubelet = 1 / (TUBELETS - WINDOW - 1)
    for name in ("gate, as changed", "pixels, as changed"):
        assert rows[name]["share"] == pytest.approx(rows["changed"]["share"], abs=a_tubelet)


def test_a_fixed_ratio_is_computed_and_thresholds_are_ordered(rows):
    assert rows["ratio 0.25"]["share"] == pytest.approx(0.25)
    shares = [rows[f"changed{name}"]["share"] for name in (", threshold*2", "", ", threshold/2")]
    assert shares == sorted(shares)


def test_economies_cost_less_arithmetic_and_some_fidelity(rows):
    dense = rows["dense"]["gflop"]
    for name in ("changed", "merge 8", "areas 2x2 in 3 of 4", "KV-only, as changed"):
        assert rows[name]["gflop"] < dense
        assert rows[name]["mean"] < 1
    assert rows["changed"]["gflop"] < rows["KV-only, as changed"]["gflop"]
    assert rows["merge 8"]["cache_bytes"] < rows["dense"]["cache_bytes"]
    assert rows["merge 8"]["mean"] != rows["merge 8, scrambled"]["mean"]


def test_kv_only_reuse_of_nothing_is_dense():
    dense, reusing = dense_and_reusing()
    every = np.arange(64)
    for patches in random_patches(5):
        expected = dense.step(patches)
        np.testing.assert_allclose(reusing.step(patches, every if reusing.fill else None), expected, atol=1e-5)


def test_kv_only_reuse_keeps_keys_and_values_alone():
    """The same patches again: keys and values of the first layer are right, so that nothing differs but deeper ones."""
    dense, reusing = dense_and_reusing()
    first, second = random_patches(2)
    for state in (dense, reusing):
        state.step(first)
    mixed = first.clone()
    mixed[:32] = second[:32]
    expected, reused = dense.step(mixed), reusing.step(mixed, np.arange(32))
    assert 1e-6 < np.linalg.norm(reused - expected) / np.linalg.norm(expected) < 0.2
    untouched = dense_and_reusing()[1]
    untouched.step(first)
    assert np.abs(untouched.step(mixed, np.arange(32, 64)) - expected).max() > np.abs(reused - expected).max()


def dense_and_reusing():
    dense = TorchBackend(ENCODER, CONFIG.backend)
    loaded = load_encoder("tiny", WINDOW)
    projections = reuse_keys_and_values(loaded.encoder)
    return dense.new_state(), ReusingBackend(TorchBackend(ENCODER, CONFIG.backend, loaded), projections).new_state()


def random_patches(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(64, 192, generator=generator) for _ in range(count)]


def test_age_is_that_of_the_oldest_token():
    plans = [TokenPlan.dense(3, ""), TokenPlan.reuse(), TokenPlan(np.array([0, 2]), ""), TokenPlan.dense(3, "")]
    stamps_ns = np.array([0, 1, 2, 3]) * 10**9
    np.testing.assert_allclose(ages_s(plans, stamps_ns, 3), [0, 1, 2, 0])


def test_work_of_merging_and_areas_counted_by_hand():
    """4 layers of width 192 and 64 tokens, window 2; merging 8 leaves 56, 48, 40, 32."""
    spec, width = SIZES["tiny"], 192
    merged = step_work(spec, 2, 1, 1, "fp32", merge=8)
    entering, leaving = (64, 56, 48, 40), (56, 48, 40, 32)
    assert merged.linear_flops == 2 * width**2 * (4 * sum(entering) + 8 * sum(leaving))
    assert merged.attention_flops == 4 * 2 * width * sum(n * n for n in entering)
    full, by_area = (step_work(spec, 2, 1, 1, "fp32", areas=areas) for areas in (None, Areas.of(spec, 2, 2, 3)))
    assert by_area.linear_flops == full.linear_flops
    assert by_area.attention_flops == full.attention_flops * (3 * 0.25 + 1) / 4


def test_merging_halves_the_tokens_at_its_largest():
    assert merges(SIZES["tiny"]) == [1, 2, 8]
    assert SIZES["tiny"].token_counts(8)[-1] == 32


def test_front_holds_what_nothing_beats():
    assert front([(3, 0.9), (1, 0.5), (2, 0.4), (3, 0.8), (4, 0.9)]) == [(1, 0.5), (3, 0.9)]


def test_table_and_picture_show_every_variant(record, tmp_path):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(record))
    said = console.export_text()
    assert all(row["name"] in said for row in record["rows"])
    assert "…" not in said
    assert draw(record, tmp_path / "economies.png").stat().st_size > 10_000


def test_clips_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="rename some"):
        Options(clips=(tmp_path / "a.mp4", tmp_path / "b" / "a.mp4"))
