"""Training of a student: deterministic, resumable after any kill, without its teacher, and able to memorise."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from caches import make_cache
from clips import write_pan
from safetensors.torch import load_file
from tiny_teacher import write_teacher
from transformers import VJEPA2Model

from saccade_ros.cli import main
from saccade_ros.encoder.weights import WeightsError, load_encoder
from saccade_ros.measure.progress import silent
from saccade_ros.storage import write_json
from saccade_ros.train import student_trainer, teachers
from saccade_ros.train.cache import TargetCache
from saccade_ros.train.causal import TrainingError
from saccade_ros.train.schedule import warm_cosine
from saccade_ros.train.student_trainer import MOTION_RISE, StudentPlan, StudentTrainer, motion_rise

SIZES = ["--depth", "2", "--width", "48", "--heads", "2", "--batch", "4", "--clip-tubelets", "2"]
SHORT = [*SIZES, "--steps", "6", "--every", "2", "--warm-up", "2"]
PLAN = StudentPlan(depth=2, width=48, heads=2, batch=4, clip_tubelets=2, steps=6, every=2, warm_up=2)
PLAN_112 = replace(PLAN, rope="interleaved", width=64, heads=1, depth=1, steps=2)


@pytest.fixture
def cache(cache_folder) -> TargetCache:
    return TargetCache(cache_folder, silent)


def train(cache_folder: Path, folder: Path, *options: str) -> int:
    return main(["train", "student", str(cache_folder), "--out", str(folder), *SHORT, *options])


def cache_of_its_own(folder: Path, *options: str) -> Path:
    """Cache of eight views of one clip, beside its teacher and clip."""
    write_pan(folder / "clips" / "a.mp4", place=7)
    teacher = write_teacher(folder / "teacher" / "tiny.onnx")
    assert make_cache(folder / "clips", teacher, folder / "cache", "--tubelets", "2", "--width", "4", *options) == 0
    return folder / "cache"


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


# What it gives


def test_motion_counts_more_from_a_third_of_the_steps_on():
    assert [motion_rise(step, 9) for step in range(9)] == [1.0] * 3 + [MOTION_RISE] * 6


def test_history_is_at_the_plans_weights_however_much_motion_counts(cache, tmp_path, monkeypatch):
    """Else the loss would seem to rise where motion's weight does."""
    still = replace(PLAN, learning_rate=0.0, overfit=4, steps=6, every=2, bidirectional=0.0, hidden=0.0)
    monkeypatch.setattr(student_trainer, "MOTION_RISE", 1000.0)
    *_, state = StudentTrainer(cache, replace(still, clip_tubelets=2, whole_views=0.0), tmp_path / "a").run()
    assert state.history[-1]["flow"] < 10 * state.history[0]["flow"]


def test_student_record_and_picture_are_written(cache_folder, tmp_path, capsys):
    assert train(cache_folder, tmp_path / "student") == 0
    record = json.loads((tmp_path / "student" / "training.json").read_text())
    assert [row["step"] for row in record["history"]] == [2, 4, 6]
    assert set(record["history"][0]) == {"step", "loss", "tokens", "pooled", "relational", "flow", "hidden"}
    assert all(np.isfinite(value) for row in record["history"] for value in row.values())
    assert record["cache"]["teacher"]["name"] == "tiny"
    assert (record["weights"], record["loss_weights"]["flow_weight"]) == (f"checkpoint {tmp_path / 'student'}", 0.3)
    loaded = load_encoder(str(tmp_path / "student"), 4)
    assert (record["weights_sha256"], record["model"]) == (loaded.sha256, str(tmp_path / "student"))
    assert record["parameters"] == sum(p.numel() for p in loaded.encoder.parameters())
    spec = loaded.encoder.spec
    assert (spec.depth, spec.width, spec.heads, spec.input_size, spec.rope) == (2, 48, 2, 32, "tiled")
    assert (tmp_path / "student" / "training.png").stat().st_size > 5000
    assert "relational" in capsys.readouterr().out


def test_transformers_loads_the_student(cache_folder, tmp_path):
    assert train(cache_folder, tmp_path / "student") == 0
    _, report = VJEPA2Model.from_pretrained(tmp_path / "student", output_loading_info=True)
    assert {name: list(found) for name, found in report.items() if found} == {}


def test_result_is_the_average_of_the_weights(cache, tmp_path):
    """By hand, over every step."""
    trainer = StudentTrainer(cache, replace(PLAN, ema=0.5), tmp_path)
    name = "encoder.layers.1.fc1.weight"
    average = trainer.student.state_dict()[name].clone()
    for state in trainer.run():
        step = state.step - 1
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * trainer.student.state_dict()[name]
    saved = load_file(tmp_path / "model.safetensors")["encoder.layer.1.mlp.fc1.weight"]
    assert torch.allclose(saved, average, atol=1e-6)


# Deterministic, resumable


def test_same_seed_gives_the_same_bytes_and_another_seed_others(cache_folder, tmp_path):
    for name, options in (("a", ()), ("b", ()), ("c", ("--seed", "1"))):
        assert train(cache_folder, tmp_path / name, *options) == 0
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")


def test_killed_run_resumes_to_the_same_bytes(cache_folder, tmp_path):
    options = ["--steps", "30", "--every", "3"]
    assert train(cache_folder, tmp_path / "whole", *options) == 0
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "saccade_ros.cli", "train", "student", str(cache_folder), "--out", str(folder)]
    victim = subprocess.Popen([*command, *SHORT, *options], env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not (folder / "checkpoint.pt").exists():
        assert victim.poll() is None
        time.sleep(0.005)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    reached = torch.load(folder / "checkpoint.pt", weights_only=True)["progress"]["step"]
    assert 0 < reached < 30
    assert train(cache_folder, folder, *options, "--resume") == 0
    assert weights(folder) == weights(tmp_path / "whole")
    curves = [json.loads((f / "training.json").read_text())["history"] for f in (folder, tmp_path / "whole")]
    assert curves[0] == curves[1]


@pytest.mark.parametrize("stopped_at", [2, 4, 6])
def test_resuming_from_any_checkpoint_gives_the_same_bytes(cache, tmp_path, stopped_at):
    whole = StudentTrainer(cache, PLAN, tmp_path / "whole")
    list(whole.run())
    interrupted = StudentTrainer(cache, PLAN, tmp_path / "cut")
    next(state for state in interrupted.run() if state.step == stopped_at)
    resumed = StudentTrainer(cache, PLAN, tmp_path / "cut")
    resumed.resume()
    assert resumed.state.step == stopped_at
    list(resumed.run())
    assert resumed.state == whole.state
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_student_is_never_older_than_the_checkpoint(cache, tmp_path, monkeypatch):
    """Killed between both files of its last step, a training that resumes has nothing left to write."""

    def killed(*_args: object) -> None:
        raise KeyboardInterrupt

    trainer = StudentTrainer(cache, PLAN, tmp_path / "cut")
    steps = trainer.run()
    next(state for state in steps if state.step == 5)
    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        list(steps)
    monkeypatch.undo()
    resumed = StudentTrainer(cache, PLAN, tmp_path / "cut")
    resumed.resume()
    assert resumed.state.step == 4
    list(resumed.run())
    list(StudentTrainer(cache, PLAN, tmp_path / "whole").run())
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_every_epoch_shows_every_view_once_in_an_order_of_its_own(cache, tmp_path):
    trainer = StudentTrainer(cache, replace(PLAN, batch=5), tmp_path)
    shown = np.concatenate([trainer._numbers(step) for step in range(13)])[:64]
    first, second = shown[:32], shown[32:]
    assert sorted(first) == sorted(second) == list(range(32))
    assert first.tolist() != second.tolist()


def test_last_steps_train_on_fewer_whole_views(cache, tmp_path):
    trainer = StudentTrainer(cache, replace(PLAN, whole_views=0.5), tmp_path)
    shapes = [tuple(trainer._example(step, torch.Generator())[0].shape[:2]) for step in range(6)]
    assert shapes == [(4, 2)] * 3 + [(2, 4)] * 3


def test_views_longer_than_the_window_cannot_be_trained_on_whole(tmp_path):
    write_pan(tmp_path / "clips" / "a.mp4", place=7, frames=70)
    teacher = write_teacher(tmp_path / "teacher" / "tiny.onnx")
    options = ["--tubelets", "33", "--views-per-clip", "2"]
    assert make_cache(tmp_path / "clips", teacher, tmp_path / "cache", *options) == 0
    cache = TargetCache(tmp_path / "cache", silent)
    with pytest.raises(
        TrainingError, match=r"views have 33 tubelets, a student's window at most 32: give --whole-views 0"
    ):
        StudentTrainer(cache, PLAN, tmp_path)
    list(StudentTrainer(cache, replace(PLAN, whole_views=0.0, steps=1), tmp_path).run())


def test_rate_rises_then_falls_to_zero():
    rates = [warm_cosine(step, 100, 10) for step in range(101)]
    assert rates[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert (np.diff(rates[10:]) <= 0).all()
    assert rates[10] == 1
    assert rates[100] == pytest.approx(0, abs=1e-9)


# The teacher never runs


def test_training_never_runs_a_teacher(cache_folder, tmp_path, monkeypatch):
    """Spies on every way to have one."""
    calls: list[str] = []
    for kind in (teachers.ImageTeacher, teachers.VideoMAETeacher, teachers.VJEPATeacher):
        for method in ("__init__", "dense"):
            monkeypatch.setattr(kind, method, lambda *_args, called=f"{kind.__name__}.{method}": calls.append(called))
    monkeypatch.setattr(teachers, "load_teacher", lambda *_args: calls.append("load_teacher"))
    assert train(cache_folder, tmp_path / "student") == 0
    assert calls == []


def test_training_needs_neither_teacher_nor_clips_on_the_disk(tmp_path):
    folder = cache_of_its_own(tmp_path)
    shutil.rmtree(tmp_path / "teacher")
    shutil.rmtree(tmp_path / "clips")
    assert train(folder, tmp_path / "student") == 0


# Memorising


def test_overfit_mode_drops_the_loss_in_200_steps(cache_folder, tmp_path):
    options = ["--overfit", "32", "--steps", "200", "--every", "20", "--learning-rate", "3e-3", "--batch", "8"]
    assert train(cache_folder, tmp_path / "student", *options) == 0
    record = json.loads((tmp_path / "student" / "training.json").read_text())
    assert record["loss_drop"] >= 0.3


def test_overfit_mode_that_learns_nothing_fails(cache_folder, tmp_path):
    assert train(cache_folder, tmp_path / "student", "--overfit", "4", "--learning-rate", "0") == 1
    assert (tmp_path / "student" / "training.json").exists(), "the record is there to be looked at"
    assert train(cache_folder, tmp_path / "usual", "--learning-rate", "0") == 0, "only that mode has to learn"


def test_overfit_mode_shows_its_views_alone_and_as_they_are(cache, tmp_path, monkeypatch):
    trainer = StudentTrainer(cache, replace(PLAN, overfit=3), tmp_path)
    assert set(np.concatenate([trainer._numbers(step) for step in range(6)])) == {0, 1, 2}
    calls: list[object] = []
    monkeypatch.setattr(student_trainer, "augmented_pixels", lambda *args: calls.append(args))
    list(trainer.run())
    assert calls == []


# Interleaved positions


def test_interleaved_student_is_a_released_file(tmp_path):
    folder = cache_of_its_own(tmp_path, "--side", "112")
    sizes = ["--rope", "interleaved", "--width", "64", "--heads", "1", "--depth", "1", "--steps", "2"]
    assert train(folder, tmp_path / "student", *sizes) == 0
    record = json.loads((tmp_path / "student" / "training.json").read_text())
    assert record["model"] == str(tmp_path / "student" / "model_112.pt")
    loaded = load_encoder(record["model"], 2)
    assert loaded.sha256 == record["weights_sha256"]
    spec = loaded.encoder.spec
    assert (spec.rope, spec.rope_grid, spec.width, spec.heads, spec.input_size) == ("interleaved", 16, 64, 1, 112)
    trainer = StudentTrainer(TargetCache(folder, silent), PLAN_112, tmp_path / "student")
    trainer.resume()
    averaged = trainer._averaged["encoder.layers.0.fc1.weight"]
    assert torch.equal(loaded.encoder.state_dict()["layers.0.fc1.weight"], averaged)
    assert not (tmp_path / "student" / "model.safetensors").exists()


def test_interleaved_student_that_no_file_can_tell_is_refused_at_the_start(cache, tmp_path):
    with pytest.raises(WeightsError, match=r"read with heads 1, the model has 2: give heads of 64 channels"):
        StudentTrainer(cache, replace(PLAN, rope="interleaved"), tmp_path / "student")
    with pytest.raises(WeightsError, match=r"read with input_size 384, the model has 32"):
        StudentTrainer(cache, replace(PLAN, rope="interleaved", width=64, heads=1), tmp_path / "student")
    assert not (tmp_path / "student").exists()


# Refusals


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--resume"], "checkpoint.pt does not exist: nothing to resume; leave --resume out"),
        (["--clip-tubelets", "5"], "--clip-tubelets is 5, a view has 4 to take: give at most as many"),
        (["--overfit", "33"], "--overfit is 33, the cache has 32 views: give at most as many"),
        (["--heads", "5"], "width 48 is no multiple of its 5 heads"),
        (["--heads", "12"], "head width 4 leaves no room"),
    ],
)
def test_refusal_is_one_line_with_the_remedy(cache_folder, tmp_path, options, said, capsys):
    assert train(cache_folder, tmp_path / "student", *options) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "student").exists()


def test_training_is_neither_overwritten_nor_mixed(cache_folder, tmp_path, capsys):
    folder = tmp_path / "student"
    assert train(cache_folder, folder) == 0
    before = weights(folder)
    for options, said in (
        ([], "holds a training already: give --resume to go on, or another folder"),
        (["--resume", "--steps", "8"], "was trained with steps 6, not 8: ask for the same"),
        (["--resume", "--seed", "1"], "was trained with seed 0, not 1"),
        (["--resume", "--flow-weight", "0"], "was trained with weights "),
    ):
        assert train(cache_folder, folder, *options) == 1
        assert said in capsys.readouterr().err
    assert weights(folder) == before


def test_training_on_another_cache_is_not_gone_on_with(cache_folder, clips, teacher_file, tmp_path, capsys):
    assert train(cache_folder, tmp_path / "student") == 0
    assert make_cache(clips, teacher_file, tmp_path / "other", "--seed", "1") == 0
    assert train(tmp_path / "other", tmp_path / "student", "--resume") == 1
    assert "was trained with cache " in capsys.readouterr().err


def test_unfinished_or_damaged_cache_is_not_trained_on(cache_folder, tmp_path, capsys):
    copied = Path(shutil.copytree(cache_folder, tmp_path / "copy"))
    found = json.loads((copied / "cache.json").read_text())
    write_json(copied / "cache.json", {**found, "shards": []})
    assert train(copied, tmp_path / "student") == 1
    assert "is not finished" in capsys.readouterr().err
    write_json(copied / "cache.json", found)
    (copied / "views-00000.safetensors").write_bytes(b"nothing")
    assert train(copied, tmp_path / "student") == 1
    assert "is not the file that cache.json names" in capsys.readouterr().err


def test_damaged_checkpoint_is_refused_with_the_remedy(cache, tmp_path):
    trainer = StudentTrainer(cache, PLAN, tmp_path)
    list(trainer.run())
    whole = trainer.checkpoint.read_bytes()
    for kept in (0, 100, len(whole) // 2):
        trainer.checkpoint.write_bytes(whole[:kept])
        with pytest.raises(TrainingError, match=r"checkpoint\.pt cannot be read .*train again in another folder"):
            StudentTrainer(cache, PLAN, tmp_path).resume()
