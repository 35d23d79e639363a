"""A target cache is what it says, to the byte, however often it was killed; and it refuses to be anything else."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from caches import OPTIONS, make_cache
from clips import write_pan
from safetensors.numpy import load_file, save_file
from scenes import textured, tiny_config
from tiny_teacher import write_teacher

from saccade_ros.measure.progress import silent
from saccade_ros.storage import sha256_of, write_json
from saccade_ros.train.cache import CacheError, TargetCache, motion
from saccade_ros.train.locked_views import draw_view, resize, show, survey
from saccade_ros.train.projection import Projection
from saccade_ros.train.teachers import load_teacher


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def copied(cache_folder, tmp_path) -> Path:
    """A cache to break."""
    return Path(shutil.copytree(cache_folder, tmp_path / "copy"))


# What it holds


def test_targets_are_the_projected_features_of_the_teacher(cache_folder, clips, teacher_file):
    cache, teacher = TargetCache(cache_folder, silent), load_teacher(str(teacher_file), 4)
    assert (cache.views, cache.plan.tubelets, cache.plan.side) == (32, 4, 32)
    projection = Projection.load(cache_folder / "projection.safetensors")
    config = tiny_config()
    surveyed = [survey(path, 4, config) for path in sorted(clips.iterdir())]
    numbers = np.array([0, 13, 31])
    batch = cache.read(numbers)
    for row, number in enumerate(numbers):
        view = draw_view(0, int(number), 8)
        (seen,) = show([(int(number), view)], surveyed[view.clip], 4, teacher.side, config)
        dense = projection(teacher.dense(seen.pictures[None])[0])  # (T, g, g, P)
        assert np.array_equal(batch.dense[row], dense.astype(np.float16))
        assert np.array_equal(batch.pooled[row], dense.mean(axis=(1, 2)).astype(np.float16))
        shown = [[resize(picture, 32) for picture in tubelet] for tubelet in seen.pictures]
        assert np.array_equal(batch.pictures[row], shown)


def test_shapes_and_types_are_the_ones_that_are_documented(cache_folder):
    batch = TargetCache(cache_folder, silent).read(np.array([3, 4]))
    assert batch.pictures.shape == (2, 4, 2, 32, 32, 3)
    assert batch.pooled.shape == (2, 4, 8)
    assert batch.dense.shape == (2, 4, 4, 4, 8)
    assert batch.flow.shape == (2, 4, 2, 2, 2)
    assert [part.dtype for part in batch] == [np.uint8, np.float16, np.float16, np.float16]
    stretch = batch.stretch(1, 2)
    assert np.array_equal(stretch.dense, batch.dense[:, 1:3])
    assert np.array_equal(stretch.pictures, batch.pictures[:, 1:3])


def test_every_view_is_locked(cache_folder, clips):
    """Clip, place, crop, mirror, colours, stamps and the hash of the pictures are kept, and follow from the seed."""
    tensors = load_file(cache_folder / "views-00000.safetensors")
    for number in range(32):
        clip, start, side, top, left, mirrored, gains = draw_view(0, number, 8)
        assert tensors["view"][number].tolist() == [clip, start, side, top, left, mirrored, *gains]
        digest = hashlib.sha256(tensors["pictures"][number].tobytes()).digest()
        assert tensors["pictures_sha256"][number].tobytes() == digest
        assert (np.diff(tensors["stamps_ns"][number].ravel()) == 250_000_000).all(), "pans are at 4 frames a second"
    lock = json.loads((cache_folder / "cache.json").read_text())["lock"]
    assert [clip["sha256"] for clip in lock["clips"]] == [sha256_of(path) for path in sorted(clips.iterdir())]


def test_motion_is_right_and_down_in_pixels():
    world = textured(96, 96)
    flow = motion(world[16:80, 16:80], world[13:77, 14:78])  # the camera moves up and left: the scene down and right
    assert flow.shape == (4, 4, 2)
    assert np.median(flow, axis=(0, 1)) == pytest.approx([2, 3], abs=0.5)


def test_record_tells_teacher_plan_and_size(clips, teacher_file, tmp_path, capsys):
    folder = tmp_path / "cache"
    assert (
        make_cache(clips, teacher_file, folder, "--views-per-clip", "3", "--json", str(tmp_path / "record.json")) == 0
    )
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["teacher"]["weights_sha256"] == record["weights_sha256"] == sha256_of(teacher_file)
    assert (record["views"], len(record["clips"]), record["plan"]["per_clip"]) == (12, 4, 3)
    assert "12 views of 4 clips, 4 tubelets each" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["random", "none"])
def test_other_projections_are_as_wide_as_asked(clips, teacher_file, tmp_path, kind):
    assert make_cache(clips, teacher_file, tmp_path / "cache", "--project", kind, "--views-per-clip", "1") == 0
    pooled = TargetCache(tmp_path / "cache", silent).read(np.array([0])).pooled
    assert pooled.shape == (1, 4, 12 if kind == "none" else 8)


# To the byte


def test_same_arguments_give_the_same_bytes_and_another_seed_others(cache_folder, clips, teacher_file, tmp_path):
    assert make_cache(clips, teacher_file, tmp_path / "again") == 0
    assert contents(tmp_path / "again") == contents(cache_folder)
    assert make_cache(clips, teacher_file, tmp_path / "other", "--seed", "1") == 0
    assert contents(tmp_path / "other")["views-00000.safetensors"] != contents(cache_folder)["views-00000.safetensors"]


def test_finished_cache_is_left_as_it_is(copied, clips, teacher_file):
    before = {file.name: file.stat().st_mtime_ns for file in copied.iterdir()}
    assert make_cache(clips, teacher_file, copied) == 0
    assert {file.name: file.stat().st_mtime_ns for file in copied.iterdir()} == before


def test_killed_run_ends_in_the_same_folder(clips, teacher_file, tmp_path):
    options = ["--views-per-clip", "50"]  # seven shards
    assert make_cache(clips, teacher_file, tmp_path / "whole", *options) == 0
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "saccade_ros.cli", "train", "cache", str(clips), "--teacher", str(teacher_file)]
    victim = subprocess.Popen(
        [*command, "--out", str(folder), *OPTIONS, *options], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    while not (folder / "views-00001.safetensors").exists():
        assert victim.poll() is None
        time.sleep(0.005)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert 1 <= len(json.loads((folder / "cache.json").read_text())["shards"]) < 7
    with pytest.raises(CacheError, match=r"is not finished: give `saccade train cache` the same arguments once more"):
        TargetCache(folder, silent)
    assert make_cache(clips, teacher_file, folder, *options) == 0
    assert contents(folder) == contents(tmp_path / "whole")


@pytest.mark.parametrize("left", [("cache.json",), ("cache.json", "projection.safetensors")])
def test_run_killed_before_its_first_shard_goes_on(copied, cache_folder, clips, teacher_file, left):
    unfinished(copied, keep=left)
    assert make_cache(clips, teacher_file, copied) == 0
    assert contents(copied) == contents(cache_folder)


def unfinished(folder: Path, keep: tuple[str, ...]) -> None:
    """What a kill leaves before the first shard."""
    for file in folder.iterdir():
        if file.name not in keep:
            file.unlink()
    if (folder / "cache.json").exists():
        write_json(folder / "cache.json", {**json.loads((folder / "cache.json").read_text()), "shards": []})


def test_projection_of_an_unknown_cache_is_not_gone_on_with(copied, cache_folder, clips, teacher_file):
    """Without cache.json nothing says what it was fitted to."""
    unfinished(copied, keep=("projection.safetensors",))
    save_file(
        {"mean": np.zeros(12, np.float32), "matrix": np.eye(12, 8, dtype=np.float32)}, copied / "projection.safetensors"
    )
    assert make_cache(clips, teacher_file, copied) == 0
    assert contents(copied) == contents(cache_folder)


# Bounded memory


def test_long_clip_is_not_held_whole(tmp_path, teacher_file):
    """600 frames are 35 MB decoded; views, shard and the clip's newest tubelets are a tenth of that."""
    clip = write_pan(tmp_path / "long.mp4", place=0, frames=600)
    assert (
        make_cache(
            clip, teacher_file, tmp_path / "warm", "--tubelets", "2", "--project", "none", "--views-per-clip", "1"
        )
        == 0
    )
    tracemalloc.start()
    try:
        assert make_cache(clip, teacher_file, tmp_path / "cache", "--tubelets", "2", "--views-per-clip", "40") == 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 600 * 120 * 160 * 3 / 6


# Refusals of the writer


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--seed", "1"], "another plan: seed (0, here 1)"),
        (["--width", "4"], "another plan: width (8, here 4)"),
        (["--tubelets", "3"], "another teacher"),  # its answer to a clip of 3
        (["--set", "stream.fps=2"], "another "),
    ],
)
def test_other_options_are_refused_by_name_and_value(cache_folder, clips, teacher_file, options, said, capsys):
    before = contents(cache_folder)
    assert make_cache(clips, teacher_file, cache_folder, *options) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "give the same, or another folder" in error
    assert contents(cache_folder) == before


def test_another_teacher_is_refused_by_what_differs(cache_folder, clips, tmp_path, capsys):
    other = write_teacher(tmp_path / "tiny.onnx", shift=0.01)
    assert make_cache(clips, other, cache_folder) == 1
    assert "was made with another teacher: weights_sha256 (" in capsys.readouterr().err


def test_other_clips_are_refused(cache_folder, clips, teacher_file, tmp_path, capsys):
    fewer = shutil.copytree(clips, tmp_path / "clips")
    (fewer / "place3.mp4").unlink()
    assert make_cache(fewer, teacher_file, cache_folder) == 1
    assert "was made with another clips" in capsys.readouterr().err


def test_other_teacher_is_refused_even_before_the_first_shard(copied, clips, tmp_path, capsys):
    """Else it would go on with the projection of the first one."""
    unfinished(copied, keep=("cache.json", "projection.safetensors"))
    assert make_cache(clips, write_teacher(tmp_path / "tiny.onnx", shift=0.01), copied) == 1
    assert "another teacher" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tubelets", "13"], "place0.mp4 has 12 tubelets, a view 13: leave it out, or lower --tubelets"),
        (["--side", "40"], "--side is 40: give a multiple of 16"),
        (["--width", "13"], "--width is 13, the teacher has 12 channels"),
        (["--views-per-clip", "1", "--tubelets", "2"], "8 features are too few for 8 components"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_written(
    clips, teacher_file, tmp_path, options, said, capsys
):
    assert make_cache(clips, teacher_file, tmp_path / "cache", *options) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_clips_that_are_none_are_refused(teacher_file, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert make_cache(tmp_path / "empty", teacher_file, tmp_path / "cache") == 1
    assert "empty holds no video: give clips, or folders of them" in capsys.readouterr().err
    assert make_cache(tmp_path / "absent.mp4", teacher_file, tmp_path / "cache") == 1
    assert "absent.mp4 does not exist" in capsys.readouterr().err


# Refusals of the reader


def test_damaged_shard_is_refused_by_name(copied):
    file = copied / "views-00000.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(CacheError, match=r"views-00000\.safetensors is not the file that cache\.json names"):
        TargetCache(copied, silent)


def test_missing_shard_is_refused_by_name(copied):
    (copied / "views-00000.safetensors").unlink()
    with pytest.raises(CacheError, match=r"views-00000\.safetensors is missing"):
        TargetCache(copied, silent)


def test_views_that_are_not_the_seeds_are_refused(copied):
    """A lock that was changed by hand, or that belongs to other shards."""
    found = json.loads((copied / "cache.json").read_text())
    found["lock"]["plan"]["seed"] = 7
    write_json(copied / "cache.json", found)
    with pytest.raises(CacheError, match=r"shows other views than cache\.json's seed draws"):
        TargetCache(copied, silent)


@pytest.mark.parametrize("text", [None, "{", "[1]", '{"lock": {}}'])
def test_folder_that_is_no_cache_is_refused(copied, text):
    file = copied / "cache.json"
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(CacheError, match=r"cache\.json cannot be read .*give a folder of `saccade train cache`"):
        TargetCache(copied, silent)


def test_digest_knows_a_cache_again(cache_folder, copied, clips, teacher_file, tmp_path):
    ours, same = (TargetCache(folder, silent).digest for folder in (cache_folder, copied))
    assert ours == same
    assert make_cache(clips, teacher_file, tmp_path / "other", "--seed", "1") == 0
    assert TargetCache(tmp_path / "other", silent).digest != ours
