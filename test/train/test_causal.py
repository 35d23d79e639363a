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
from saccade_ros.encoder.weights import LoadedEncoder, load_encoder
from saccade_ros.train import causal
from saccade_ros.train.causal import (
    CausalTrainer,
    TrainingError,
    TrainingExample,
    TrainingPlan,
    centred_gap,
    example_loss,
    example_span,
    first_target,
    prepare,
)
from saccade_ros.train.views import random_view

SETTINGS = ["--set", "encoder.model=tiny", "--set", "encoder.window=2", "--set", "stream.fps=0"]
SHORT = ["--rank", "2", "--every", "2", "--tubelets", "8"]


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


def contextual(window: int) -> LoadedEncoder:
    """A teacher whose attention matters."""
    loaded = load_encoder("tiny", window)
    for layer in loaded.encoder.layers:
        for linear in (layer.attention.qkv, layer.attention.proj, layer.fc1, layer.fc2):
            linear.weight.data *= 3.0
    return loaded


def noisy_clip(size: int, tubelets: int = 10, seed: int = 0) -> torch.Tensor:
    """A still picture and as much noise as leaves it visible."""
    random = np.random.default_rng(seed)
    still, noise = (random.normal(size=(n, 2, 3, size, size)) for n in (1, tubelets))
    return torch.from_numpy((still + 0.5 * noise).astype(np.float32))


def test_gap_falls_on_an_example_seen_over_and_over(tmp_path, monkeypatch):
    """A random network's other views are other scenes: on those nothing is promised."""
    loaded, clip = contextual(3), noisy_clip(128)
    plan = TrainingPlan(rank=16, steps=60, every=30, learning_rate=1e-3)
    trainer = CausalTrainer(loaded.encoder, loaded.sha256, plan, ["seen"], tmp_path)
    monkeypatch.setattr(trainer, "_new_example", lambda _: prepare(loaded.encoder, clip, 2))
    *_, last = trainer.run([], [clip])
    gaps = [row["gaps"][0] for row in last.history]
    assert gaps[-1] < 0.5 * gaps[0]


def test_only_the_adapter_learns(tmp_path):
    loaded = contextual(2)
    before = {name: p.clone() for name, p in loaded.encoder.named_parameters()}
    plan = TrainingPlan(steps=3)
    trainer = CausalTrainer(loaded.encoder, loaded.sha256, plan, ["seen"], tmp_path)
    list(trainer.run([noisy_clip(192)], []))
    after = dict(loaded.encoder.named_parameters())
    assert {name for name, p in before.items() if not torch.equal(p, after[name])} == set()
    learned = trainer.adapter().tensors
    assert {name for name, tensor in learned.items() if not tensor.abs().max() > 0} == set()


def test_teacher_and_student_share_their_weights(tmp_path):
    loaded = load_encoder("tiny", 2)
    trainer = CausalTrainer(loaded.encoder, loaded.sha256, TrainingPlan(), ["seen"], tmp_path)
    ours, shared = ({p.data_ptr() for p in e.parameters()} for e in (trainer._student, loaded.encoder))
    assert shared < ours


def test_same_seed_gives_the_same_bytes_and_another_seed_others(clip, tmp_path):
    first, again = (train(clip, tmp_path / name, "--steps", "4") for name in ("a", "b"))
    assert first == again
    assert train(clip, tmp_path / "c", "--steps", "4", "--seed", "1") != first


def test_adapter_record_and_picture_are_written(clip, tmp_path):
    train(clip, tmp_path, "--steps", "3", "--held-out", clip)
    record = json.loads((tmp_path / "training.json").read_text())
    assert [row["step"] for row in record["history"]] == [0, 2, 3]
    assert all(len(row["gaps"]) == 1 and row["gaps"][0] >= 0 for row in record["history"])
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
    clip = noisy_clip(192)
    plan = TrainingPlan(rank=2, steps=8, every=2)

    def trainer() -> CausalTrainer:
        fresh = contextual(2)
        return CausalTrainer(fresh.encoder, fresh.sha256, plan, ["seen"], tmp_path)

    uninterrupted = trainer()
    list(uninterrupted.run([clip], [clip[..., :128, :128]]))
    interrupted = trainer()
    next(p for p in interrupted.run([clip], [clip[..., :128, :128]]) if p.step == stopped_at)
    resumed = trainer()
    resumed.resume()
    assert resumed.state.step == stopped_at
    list(resumed.run([clip], [clip[..., :128, :128]]))
    assert resumed.state == uninterrupted.state
    ours, theirs = resumed.adapter().tensors, uninterrupted.adapter().tensors
    assert {name for name in theirs if not torch.equal(ours[name], theirs[name])} == set()


def test_loss_is_taken_where_every_window_had_filled(tmp_path):
    assert (example_span(3), first_target(3)) == (9, 4)
    loaded = contextual(3)
    trainer = CausalTrainer(loaded.encoder, loaded.sha256, TrainingPlan(), ["seen"], tmp_path)
    example = trainer._new_example([noisy_clip(192)])
    assert (len(example.patches), len(example.targets), len(example.unadapted)) == (9, 5, 5)


def test_loss_is_one_for_the_bare_step_and_by_hand_for_another(monkeypatch):
    monkeypatch.setattr(causal, "stream_tokens", lambda _, patches: patches)
    targets = torch.zeros(2, 2, 2)
    before = torch.tensor([[[2.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])  # length 2, of the means 1
    assert float(example_loss(None, TrainingExample(before, targets, before))) == 1
    now = torch.tensor([[[0.0, 1.0], [0.0, -1.0]], [[0.0, 0.0], [0.0, 0.0]]])  # length sqrt(2), of the means 0
    assert float(example_loss(None, TrainingExample(now, targets, before))) == pytest.approx(0.5 * 2**0.5 / 2)


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


def test_held_out_clip_no_longer_than_the_window_is_refused(clip, tmp_path, capsys):
    options = [*SETTINGS, *SHORT, "--tubelets", "2", "--held-out", clip, "--out", str(tmp_path / "x")]
    assert main(["train", "causal", clip, *options]) == 1
    assert "hold out a longer one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--resume"], "nothing to resume"),
        (["--steps", "0"], "steps is 0"),
        (["--set", "encoder.window=1"], "window is 1"),
        (["--set", "encoder.adapter=x"], "training starts from bare weights"),
    ],
)
def test_refusal_is_one_line_with_the_remedy(clip, tmp_path, options, said, capsys):
    assert main(["train", "causal", clip, *SETTINGS, *SHORT, "--out", str(tmp_path / "x"), *options]) == 1
    assert said in capsys.readouterr().err


def test_checkpoint_of_other_weights_is_refused(tmp_path):
    loaded = load_encoder("tiny", 2)
    plan = TrainingPlan(steps=2)
    first = CausalTrainer(loaded.encoder, loaded.sha256, plan, ["seen"], tmp_path)
    list(first.run([noisy_clip(192)], []))
    other = load_encoder("tiny", 2, seed=1)
    with pytest.raises(TrainingError, match="was trained with weights"):
        CausalTrainer(other.encoder, other.sha256, plan, ["seen"], tmp_path).resume()


def test_example_is_free_of_inference_tensors():
    prepared = prepare(load_encoder("tiny", 2).encoder, noisy_clip(128), 1)
    assert not any(part.is_inference() for part in prepared)
