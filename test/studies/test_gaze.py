"""The gaze study: what viewers are sent and see, and the files that say so."""

import csv
import json
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest
from clips import write_pan, write_video

from saccade_ros.cli import main
from saccade_ros.config import Config, EncoderConfig, StreamConfig
from saccade_ros.frames import IMAGENET_MEAN, IMAGENET_STD
from saccade_ros.measure.progress import silent
from saccade_ros.plan.residual import update_canvas
from saccade_ros.studies import gaze
from saccade_ros.studies.gaze_rules import RandomRule, Setting, UniformRule, choose_greedily, spread_order
from saccade_ros.studies.gaze_viewers import Viewer, ViewersOfSetting, canvas_errors
from saccade_ros.vision.preprocess import normalize_all

MEANS = ["tokens", "actual_ratio", "reconstruction_loss", "pixel_mae", "pixel_mse", "psnr_db", "ssim"]
MEANS += ["selection_ms", "reconstruction_ms"]
WORST = ["worst_psnr_db", "worst_ssim"]
SETTINGS = ["ratio_0.10", "ratio_0.25", "ratio_0.50", "ratio_0.75", "ratio_1.00", "error", "both"]
TUBELETS = {"cuts.mp4": 8, "pan.mp4": 6}
COMMAND = ["evaluate", "gaze"]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """What the command writes of two clips, with patches of 16 px at 64 px: 16 patches."""
    folder = tmp_path_factory.mktemp("gaze")
    clips = [write_video(folder / "cuts.mp4", frames=16, hold=6), write_pan(folder / "pan.mp4", place=3, frames=12)]
    options = ["--input-size", "64", "--psnr-db", "28", "--ratio-cap", "0.5", "--out", str(folder / "out")]
    assert main([*COMMAND, *map(str, clips), *options]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def short_clip(tmp_path_factory):
    """One tubelet."""
    return write_video(tmp_path_factory.mktemp("short") / "clip.mp4", frames=2)


def read(file):
    """Rows of a CSV, figures as numbers."""
    text = {"clip", "setting", "rule"}
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    return [{name: value if name in text else float(value) for name, value in row.items()} for row in rows]


def grouped(rows, *keys):
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in keys)].append(row)
    return groups


def grey_tubelet(seed):
    return np.random.default_rng(seed).integers(0, 256, (2, 32, 32, 3), np.uint8)


# The files


def test_tables_have_a_row_for_each_tubelet_clip_and_setting_of_each_rule(out):
    frames, by_clip, summary = (
        read(out / f"{name}.csv") for name in ("metrics_by_frame", "metrics_by_clip_setting", "summary_by_setting")
    )
    assert list(frames[0]) == ["clip", "setting", "rule", "tubelet", "stamp_s", *MEANS]
    assert list(by_clip[0]) == ["clip", "setting", "rule", "tubelets", *MEANS, *WORST]
    assert list(summary[0]) == ["setting", "rule", "clips", *MEANS, *WORST]
    assert list(dict.fromkeys(row["setting"] for row in summary)) == SETTINGS
    assert len(summary) == 3 * len(SETTINGS)
    assert len(by_clip) == 2 * len(summary)
    assert {key: len(rows) for key, rows in grouped(frames, "clip").items()} == {
        (name,): count * len(summary) for name, count in TUBELETS.items()
    }


def test_means_are_those_of_the_rows_and_clips_weigh_the_same(out):
    frames = grouped(read(out / "metrics_by_frame.csv"), "clip", "setting", "rule")
    by_clip = read(out / "metrics_by_clip_setting.csv")
    for row in by_clip:
        rows = frames[row["clip"], row["setting"], row["rule"]]
        assert row["tubelets"] == len(rows) == TUBELETS[row["clip"]]
        assert [row[name] for name in MEANS] == pytest.approx([np.mean([r[name] for r in rows]) for name in MEANS])
        assert [row[name] for name in WORST] == [min(r[name] for r in rows) for name in ("psnr_db", "ssim")]
    clips = grouped(by_clip, "setting", "rule")
    for row in read(out / "summary_by_setting.csv"):
        rows = clips[row["setting"], row["rule"]]
        assert row["clips"] == len(rows) == 2
        assert [row[name] for name in MEANS] == pytest.approx([np.mean([r[name] for r in rows]) for name in MEANS])
        assert [row[name] for name in WORST] == [min(r[name] for r in rows) for name in WORST]


def test_rules_are_sent_equally_many_patches_of_each_tubelet_as_the_setting_says(out):
    for rows in grouped(read(out / "metrics_by_frame.csv"), "clip", "setting", "tubelet").values():
        assert len(rows) == 3
        (tokens,) = {row["tokens"] for row in rows}
        assert rows[0]["actual_ratio"] == tokens / 16
        if rows[0]["tubelet"] == 0:
            assert tokens == 16
        elif rows[0]["setting"].startswith("ratio"):
            assert tokens == round(16 * float(rows[0]["setting"].removeprefix("ratio_")))
        elif rows[0]["setting"] == "both":
            assert tokens <= 8


def test_everything_sent_is_exact(out):
    rows = [row for row in read(out / "metrics_by_frame.csv") if row["setting"] == "ratio_1.00" or not row["tubelet"]]
    assert len(rows) > 3 * len(SETTINGS)
    for row in rows:
        assert [row[name] for name in MEANS[2:7]] == [0, 0, 0, 100, 1]


def test_our_rule_reaches_the_psnr_that_is_asked_for(out):
    rows = [row for row in read(out / "metrics_by_frame.csv") if (row["setting"], row["rule"]) == ("error", "greedy")]
    assert min(row["psnr_db"] for row in rows) >= 28 - 1e-3
    assert np.mean([row["tokens"] for row in rows]) < 16


def test_our_rule_is_nearer_to_the_picture_than_the_others(out):
    for rows in grouped(read(out / "summary_by_setting.csv"), "setting").values():
        mse = {row["rule"]: row["pixel_mse"] for row in rows}
        assert mse["greedy"] <= min(mse["uniform"], mse["random"])


def test_plots_grids_and_record_are_there(out):
    names = ["frames", "heat", *SETTINGS]
    pictures = [out / "tradeoff.png", *(out / "pictures" / clip / f"{name}.png" for clip in TUBELETS for name in names)]
    assert min(picture.stat().st_size for picture in pictures) > 10_000
    record = json.loads((out / "metadata.json").read_text())
    assert (record["input_size"], record["patch_size"], record["tokens"], record["psnr_db"]) == (64, 16, 16, 28)
    assert [clip["name"] for clip in record["clips"]] == list(TUBELETS)
    assert set(record["columns"]) == set(MEANS)
    assert sorted(p.name for p in out.iterdir() if p.is_file()) == [
        "metadata.json",
        "metrics_by_clip_setting.csv",
        "metrics_by_frame.csv",
        "summary.txt",
        "summary_by_setting.csv",
        "tradeoff.png",
    ]
    assert all(word in (out / "summary.txt").read_text() for word in ("both", "random", "pan.mp4, 6 tubelets"))


# Options and refusals


def test_clip_of_one_tubelet_is_reported_and_drawn(tmp_path, short_clip):
    options = gaze.Options((short_clip,), tmp_path / "out", input_size=64)
    found = gaze.run(options, silent)
    assert {row["tubelets"] for row in found.metadata["by_clip"]} == {1}
    assert all(file.exists() for file in gaze.save(found, options))


@pytest.mark.parametrize(
    ("model", "given", "sizes"),
    [
        ("default", {}, (128, 16, 64)),
        ("vitl", {}, (256, 16, 256)),
        ("default", {"input_size": 96}, (96, 16, 36)),
        ("absent", {"input_size": 64, "patch_size": 32}, (64, 32, 4)),
    ],
)
def test_sizes_are_those_of_the_model_or_as_given(model, given, sizes, short_clip):
    config = Config(encoder=EncoderConfig(model=model), stream=StreamConfig(fps=0.0))
    record = gaze.run(gaze.Options((short_clip,), tubelets=1, config=config, **given), silent).metadata
    assert (record["input_size"], record["patch_size"], record["tokens"]) == sizes
    assert {row["psnr_db"] for row in record["summary"]} == {100.0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent.mp4"], "absent.mp4 does not exist"),
        (["BROKEN"], "broken.mp4"),
        (["CLIP", "CLIP"], "2 clips are named clip.mp4: rename some"),
        (["CLIP", "--input-size", "60"], "input 60 px is no multiple of its 16 px patch"),
        (["CLIP", "--set", "encoder.model=nothing"], "nothing: no config.json"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line(arguments, said, short_clip, tmp_path, capsys):
    files = {"CLIP": short_clip, "BROKEN": tmp_path / "broken.mp4"}
    files["BROKEN"].write_bytes(b"no video")
    words = [str(files.get(word, word)) for word in arguments]
    assert main([*COMMAND, *words, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_no_torch_is_needed():
    code = "import sys, saccade_ros.studies.gaze; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


# Viewers


def test_viewer_sees_each_patch_as_it_was_when_it_was_last_sent():
    first, second, third = (normalize_all(grey_tubelet(seed)) for seed in range(3))
    viewer = Viewer(patch_size=16)
    assert viewer.look(first, lambda: np.array([1])).token_idx.tolist() == [0, 1, 2, 3]
    viewer.look(second, lambda: np.array([0, 3]))
    viewer.look(third, lambda: np.array([3]))
    expected = first.copy()
    expected[..., :16, :16] = second[..., :16, :16]
    expected[..., 16:, 16:] = third[..., 16:, 16:]
    assert (viewer.canvas == expected).all()


def test_errors_are_those_of_the_grey_levels():
    picture, shown = grey_tubelet(0), grey_tubelet(1)
    found = canvas_errors(normalize_all(picture), normalize_all(shown))
    difference = picture.astype(float) - shown
    assert found["pixel_mae"] == pytest.approx(np.abs(difference).mean(), rel=1e-4)
    assert found["pixel_mse"] == pytest.approx(np.square(difference).mean(), rel=1e-4)
    assert found["psnr_db"] == pytest.approx(10 * np.log10(255**2 / np.square(difference).mean()), abs=1e-3)
    normalised = [(p / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD) for p in (picture, shown)]
    assert found["reconstruction_loss"] == pytest.approx(np.square(normalised[0] - normalised[1]).mean(), rel=1e-4)


def test_random_viewers_differ_with_the_seed_alone():
    tubelets = [normalize_all(grey_tubelet(seed)) for seed in range(2)]

    def random_patches(seed):
        viewers = ViewersOfSetting(Setting("half", 0.5), grid=8, patch_size=4, seed=seed)
        return [viewers.look(pixels)["random"].token_idx.tolist() for pixels in tubelets]

    assert random_patches(1) == random_patches(1) != random_patches(2)


# Rules


@pytest.mark.parametrize("psnr_db", [10.0, 12.0, 20.0])
def test_both_sends_as_many_as_the_psnr_needs_but_no_more_than_the_ratio(psnr_db):
    pixels, canvas = normalize_all(grey_tubelet(0)), normalize_all(grey_tubelet(1))
    update_canvas(canvas, pixels, np.arange(9), 8)
    needed = choose_greedily(pixels, canvas, 8, Setting("error", 1.0, psnr_db))
    most = choose_greedily(pixels, canvas, 8, Setting("ratio", 0.25))
    both = choose_greedily(pixels, canvas, 8, Setting("both", 0.25, psnr_db))
    assert both.tolist() == min(needed.tolist(), most.tolist(), key=len)


@pytest.mark.parametrize("grid", [1, 2, 7, 8, 16, 24])
def test_even_order_has_every_patch_once(grid):
    assert sorted(spread_order(grid)) == list(range(grid * grid))


def test_any_quarter_of_the_even_order_has_one_patch_of_each_square_of_four():
    for quarter in spread_order(8).reshape(4, 16):
        rows, columns = np.divmod(quarter, 8)
        assert len(set(zip(rows // 2, columns // 2, strict=True))) == 16


def test_half_of_the_even_order_is_a_chessboard():
    rows, columns = np.divmod(spread_order(8)[:32], 8)
    assert set((rows + columns) % 2) == {0}


def test_uniform_rule_goes_on_where_it_stopped():
    rule = UniformRule(4)
    first, second, third = (rule.choose(6).tolist() for _ in range(3))
    assert first == sorted(first)
    assert len({*first, *second, *third}) == 16
    assert len(rule.choose(16)) == len(set(rule.choose(16))) == 16


def test_random_rule_draws_different_patches():
    rule = RandomRule(4, seed=0)
    first, second = rule.choose(7), rule.choose(7)
    assert len(set(first)) == 7
    assert first.tolist() == sorted(first)
    assert first.tolist() != second.tolist()
