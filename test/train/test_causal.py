"""Training: it learns, it is deterministic, and a killed run resumes to the same weights."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import write_video
from safetensors.torch import load_file

from saccade_ros.cli import main
from saccade_ros.encoder.weights import load_encoder
from saccade_ros.train import causal
from saccade_ros.train.causal import CausalTrainer, Lesson, TrainingError, TrainingPlan, _Loss, centred_gap, prepare
from saccade_ros.train.views import random_view

SETTINGS = ["--set", "encoder.model=tiny", "--set", "encoder.window=2", "--set", "stream.fps=0"]
SHORT = ["--views", "2", "--rank", "2", "--every", "2", "--tubelets", "8"]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=24, hold=4))


def train(clip: str, folder: Path, *options: str) -> bytes:
    assert main(["train", "causal", clip, *SETTINGS, *SHORT, "--out", str(folder), *options]) == 0
    return (folder / "adapter.safetensors").read_bytes()


def lesson(window: int, seed: int = 0, gain: float = 3.0) -> tuple:
    """A teacher whose attention matters, and a clip it has seen."""
    loaded = load_encoder("tiny", window, window)
    for layer in loaded.encoder.layers:
        for linear in (layer.attention.qkv, layer.attention.proj, layer.fc1, layer.fc2):
            linear.weight.data *= gain
    random = np.random.default_rng(seed)
    pixels = random.normal(size=(1, 1, 3, 128, 128)) + 0.5 * random.normal(size=(10, 2, 3, 128, 128))
    return loaded, prepare(loaded.encoder, torch.from_numpy(pixels.astype(np.float32)), lambda: None)


def test_gap_falls_on_what_was_trained_on(tmp_path):
    loaded, seen = lesson(3)
    plan = TrainingPlan("tiny", window=3, rank=16, steps=60, every=30, learning_rate=1e-3)
    trainer = CausalTrainer(loaded.encoder, loaded.sha256, plan, ["seen"], tmp_path)
    *_, last = trainer.run([seen], [seen])
    gaps = [row["held_out_gap"] for row in last.history]
    assert gaps[-1] < 0.5 * gaps[0]


def test_targets_are_the_clip_encoder_on_the_window_ending_in_each_tubelet():
    loaded, prepared = lesson(3)
    ring = loaded.encoder.new_ring()
    for n in (4, 5, 6):  # the window of tubelet 6, on a fresh ring
        out = loaded.encoder.step([prepared.patches[n]], [ring])[0]
    assert (out.tokens[-1] - prepared.targets[6]).abs().max() <= 1e-5 * prepared.targets[6].abs().max()


def test_only_the_adapter_learns(tmp_path):
    loaded, seen = lesson(2)
    before = {name: p.clone() for name, p in loaded.encoder.named_parameters()}
    plan = TrainingPlan("tiny", window=2, steps=3)
    trainer = CausalTrainer(loaded.encoder, loaded.sha256, plan, ["seen"], tmp_path)
    list(trainer.run([seen], []))
    after = {
        name.replace("parametrizations.weight.original", "weight"): p for name, p in trainer._encoder.named_parameters()
    }
    assert {name for name, p in before.items() if not torch.equal(p, after[name])} == set()
    learned = trainer.adapter().tensors
    assert {name for name, tensor in learned.items() if not tensor.abs().max() > 0} == set()


def test_same_seed_gives_the_same_bytes_and_another_seed_others(clip, tmp_path):
    first, again = (train(clip, tmp_path / name, "--steps", "4") for name in ("a", "b"))
    assert first == again
    assert train(clip, tmp_path / "c", "--steps", "4", "--seed", "1") != first


def test_adapter_record_and_picture_are_written(clip, tmp_path):
    train(clip, tmp_path, "--steps", "3", "--held-out", clip)
    record = json.loads((tmp_path / "training.json").read_text())
    assert [row["step"] for row in record["history"]] == [0, 2, 3]
    assert all(row["held_out_gap"] >= 0 for row in record["history"])
    assert record["weights"].startswith("RANDOM")
    assert record["parameters"] == sum(t.numel() for t in load_file(tmp_path / "adapter.safetensors").values())
    assert (tmp_path / "training.png").stat().st_size > 5000
    assert load_encoder("tiny", 2, adapter=str(tmp_path / "adapter.safetensors"))


def test_killed_run_resumes_to_the_same_weights(clip, tmp_path):
    whole = train(clip, tmp_path / "whole", "--steps", "12")
    folder = tmp_path / "killed"
    command = [
        sys.executable,
        "-m",
        "saccade_ros.cli",
        "train",
        "causal",
        clip,
        *SETTINGS,
        *SHORT,
        "--out",
        str(folder),
    ]
    victim = subprocess.Popen([*command, "--steps", "12"], env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not (folder / "checkpoint.pt").exists():
        assert victim.poll() is None
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    reached = torch.load(folder / "checkpoint.pt", weights_only=True)["progress"]["step"]
    assert 0 < reached <= 12
    assert train(clip, folder, "--steps", "12", "--resume") == whole


@pytest.mark.parametrize("stopped_at", [2, 6])
def test_resuming_from_any_checkpoint_gives_the_same_weights(clip, tmp_path, stopped_at):
    """What a kill leaves, at a step of our choice."""
    _, seen = lesson(2)
    plan = TrainingPlan("tiny", window=2, rank=2, steps=8, every=2)

    def trainer() -> CausalTrainer:
        fresh, _ = lesson(2)
        return CausalTrainer(fresh.encoder, fresh.sha256, plan, ["seen"], tmp_path)

    uninterrupted = trainer()
    list(uninterrupted.run([seen], [seen]))
    interrupted = trainer()
    next(p for p in interrupted.run([seen], [seen]) if p.step == stopped_at)
    resumed = trainer()
    resumed.resume()
    assert resumed.progress.step == stopped_at
    list(resumed.run([seen], [seen]))
    assert resumed.progress == uninterrupted.progress
    ours, theirs = resumed.adapter().tensors, uninterrupted.adapter().tensors
    assert {name for name in theirs if not torch.equal(ours[name], theirs[name])} == set()


def test_loss_is_blind_to_what_the_window_had_not_filled_for():
    loaded, seen = lesson(3)
    plan = TrainingPlan("tiny", window=3)
    assert (plan.span, plan.settled) == (9, 4)
    young = seen.targets.clone()
    young[: plan.settled] += 1.0
    before, after = (_Loss([Lesson(seen.patches, t)], plan.settled)(loaded.encoder, 0) for t in (seen.targets, young))
    assert torch.equal(before, after)


def test_loss_by_hand(monkeypatch):
    targets = torch.tensor([[[0.0, 0.0], [2.0, 2.0]], [[4.0, 4.0], [6.0, 6.0]]])  # (2, 2, 2); means 1 and 5
    monkeypatch.setattr(causal, "stream_tokens", lambda _, patches: patches)
    loss = _Loss([Lesson(targets + torch.tensor([1.0, 0.0]), targets)], first=0)
    # squared error 1/2; tokens 0, 2, 4, 6 have variance 5, their means 1, 5 have variance 4
    assert float(loss(None, 0)) == pytest.approx(0.5 / 5 + 0.5 / 4)


def test_views_differ_and_depend_on_the_seed_alone():
    pixels = torch.randn(5, 2, 3, 96, 96)
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    first, again = (random_view(pixels, 64, 12, g) for g in generators)
    assert first.shape == (12, 2, 3, 64, 64)
    assert torch.equal(first, again)
    assert not torch.equal(first, random_view(pixels, 64, 12, generators[0]))


def test_gap_by_hand():
    targets = torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]]])
    assert centred_gap(targets, targets) == pytest.approx(0)
    turned = torch.tensor([[[0.0, 5.0]], [[-3.0, 0.0]]])  # at a right angle, and parallel
    assert centred_gap(turned, targets) == pytest.approx(0.5)


def test_training_is_not_overwritten_nor_mixed(clip, tmp_path):
    train(clip, tmp_path, "--steps", "2")
    options = [*SETTINGS, *SHORT, "--out", str(tmp_path)]
    assert main(["train", "causal", clip, *options, "--steps", "2"]) == 1
    assert main(["train", "causal", clip, *options, "--steps", "3", "--resume"]) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--resume"], "nothing to resume"),
        (["--views", "0"], "views is 0"),
        (["--steps", "0"], "steps is 0"),
        (["--set", "encoder.adapter=x"], "training starts from bare weights"),
    ],
)
def test_refusal_is_one_line_with_the_remedy(clip, tmp_path, options, said, capsys):
    assert main(["train", "causal", clip, *SETTINGS, *SHORT, "--out", str(tmp_path / "x"), *options]) == 1
    assert said in capsys.readouterr().err


def test_checkpoint_of_other_weights_is_refused(tmp_path):
    loaded, seen = lesson(2)
    plan = TrainingPlan("tiny", window=2, steps=2)
    first = CausalTrainer(loaded.encoder, loaded.sha256, plan, ["seen"], tmp_path)
    list(first.run([seen], []))
    other = load_encoder("tiny", 2, 2, seed=1)
    with pytest.raises(TrainingError, match="was trained with weights"):
        CausalTrainer(other.encoder, other.sha256, plan, ["seen"], tmp_path).resume()


def test_lesson_is_free_of_inference_tensors():
    _, prepared = lesson(2)
    assert not any(part.is_inference() for part in Lesson(*prepared))
