"""Probes and retrieval: the fits on data of known answers, and both commands on generated clips."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from clips import write_pan
from scenes import tiny_config

from saccade_ros.backends import load_backend
from saccade_ros.cli import main
from saccade_ros.measure.progress import silent
from saccade_ros.recordings.clip import read_clip
from saccade_ros.recordings.labelled import LabelledClip
from saccade_ros.storage import write_file
from saccade_ros.studies.attentive import (
    AttentivePlan,
    TokenColumn,
    name_clips,
    train_attentive,
)
from saccade_ros.studies.columns import evenly
from saccade_ros.studies.linear import (
    STRENGTHS,
    USUAL_STRENGTH,
    chance_level,
    choose_strength,
    fit_linear,
    probe_linearly,
    score_labels,
)
from saccade_ros.studies.retrieval import retrieve
from saccade_ros.studies.streamed import stream

TINY = ["--set", "encoder.model=tiny", "--set", "encoder.window=2", "--set", "backend.threads=1"]


def labelled(labels: str, split: str, group: str = "") -> list[LabelledClip]:
    return [LabelledClip(Path(f"{split}{n}"), label, split, group) for n, label in enumerate(labels)]


def blobs(labels: str, seed: int = 0, dim: int = 6) -> np.ndarray:
    """A cloud for each label, of very different scales by dimension, and nowhere near zero."""
    rng = np.random.default_rng(seed)
    centres = {"a": 0, "b": 1, "c": 2}
    vectors = rng.normal(0, 0.3, (len(labels), dim)) + 4 * np.eye(3, dim)[[centres[label] for label in labels]]
    return (100 + vectors * 10.0 ** np.arange(dim)).astype(np.float32)


def test_linear_probe_names_clouds_whatever_their_scale():
    clips = [*labelled("abc" * 6, "train"), *labelled("cab", "test")]
    names, strength = probe_linearly(blobs("abc" * 6 + "cab"), clips)
    assert names == ["c", "a", "b"]
    assert strength in STRENGTHS


def test_linear_fit_is_at_the_minimum_of_its_loss():
    """Gradient of the loss by definition, in standardised values, is zero."""
    labels, vectors = list("aabbcc"), blobs("aabbcc")
    head = fit_linear(vectors, labels, strength=0.1)
    mean, deviation = vectors.mean(axis=0, dtype=np.float64), vectors.std(axis=0, dtype=np.float64)
    inputs, weight = (vectors - mean) / deviation, head.weight * deviation
    scores = inputs @ weight.T + head.bias + head.weight.astype(np.float64) @ mean
    error = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True) - np.repeat(np.eye(3), 2, axis=0)
    assert np.abs(error.T @ inputs / len(labels) + 0.1 * weight).max() < 1e-3
    again = fit_linear(vectors, labels, strength=0.1)
    assert np.array_equal(again.weight, head.weight)


def test_strength_is_chosen_on_the_train_split_without_splitting_origins():
    labels = list("ab" * 6)
    noise = np.random.default_rng(0).normal(size=(12, 40)).astype(np.float32)
    origins = [f"{label}{n // 4}" for n, label in enumerate(labels)]
    assert choose_strength(noise, labels, origins) == STRENGTHS[-1], "noise is best left alone"
    assert choose_strength(noise, labels, ["one"] * 12) == USUAL_STRENGTH


def test_scores_by_hand():
    test = labelled("aab", "test")
    assert score_labels(["a", "b", "b"], test) == {"a": 0.5, "b": 1.0}
    assert chance_level([*labelled("aab", "train"), *test]) == pytest.approx(2 / 3)
    assert chance_level([*labelled("abb", "train"), *test]) == pytest.approx(1 / 3)


def test_retrieval_by_hand():
    # the gallery's mean is 0; the query for a sees a, b, a from near to far, that for b sees its b last
    gallery, queries = [[2, 0], [0, -2], [-2, 2]], [[2, -0.1], [-1, 1.1]]
    found = retrieve(np.array(gallery + queries, np.float32), [*labelled("aba", "train"), *labelled("ab", "test")])
    assert found["R@1"]["mean"] == 0.5
    assert found["R@5"]["mean"] == 1.0
    assert found["mAP"]["mean"] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 3) / 2)


def test_tokens_are_spread_evenly():
    assert evenly(10, 4).tolist() == [0, 3, 6, 9]
    assert evenly(3, 8).tolist() == [0, 1, 2]


def test_token_column_gives_the_stream_s_vectors_and_keeps_their_tokens(tmp_path):
    config = tiny_config()
    backend = load_backend(config.encoder, config.backend)
    column = TokenColumn(backend, BytesIO(), at_most=2)
    clips = [
        read_clip(write_pan(tmp_path / f"{n}.mp4", n, frames=2 * n), config, backend.info.input_size) for n in (2, 3)
    ]
    for clip in clips:
        assert np.array_equal(column(clip), stream(backend, clip.pixels).vectors)
    for n, clip in enumerate(clips):
        tokens, vectors = column.read(n), stream(backend, clip.pixels).vectors
        assert tokens.shape == (2 * 64, 192)
        ends = tokens.unflatten(0, (2, 64)).mean(dim=1).numpy()
        assert ends == pytest.approx(vectors[[0, -1]], abs=2e-3), "first and last, in half precision"


def test_attentive_probe_learns_what_it_is_shown_and_is_the_same_every_time(tmp_path):
    config = tiny_config()
    backend = load_backend(config.encoder, config.backend)
    column = TokenColumn(backend, BytesIO(), at_most=1)
    for n in range(4):
        column(read_clip(write_pan(tmp_path / f"{n}.mp4", n, frames=2), config, backend.info.input_size))
    plan = AttentivePlan(epochs=15)
    labels = ["a", "b", "a", "b"]
    probes = [train_attentive(column, range(4), labels, plan, silent) for _ in range(2)]
    assert name_clips(probes[0], column, range(4)) == labels
    first, second = (probe.state_dict() for probe in probes)
    assert all((first[name] == second[name]).all() for name in first)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Each label is a place, seen at another time in the test split."""
    root = tmp_path_factory.mktemp("labelled")
    for label, place in (("hall", 1), ("yard", 2)):
        for n, split in enumerate(("train", "train", "train", "test", "test")):
            write_pan(root / split / label / f"{n}.mp4", place, frames=6, start=7 * n)
    return root


def test_probe_command_reads_both_probes_and_the_controls(folder, tmp_path, capsys):
    file = tmp_path / "probe.json"
    command = ["evaluate", "probe", str(folder), *TINY, "--epochs", "3", "--token-tubelets", "2"]
    assert main([*command, "--json", str(file)]) == 0
    record = json.loads(file.read_text())
    rows = {(row["probe"], row["of"]): row for row in record["probes"]}
    assert list(rows) == [
        ("linear", "pixels 16x16"),
        ("linear", "untrained"),
        ("linear", "encoder"),
        ("attentive", "encoder"),
    ]
    for row in rows.values():
        assert 0 <= row["accuracy"]["low"] <= row["accuracy"]["mean"] <= row["accuracy"]["high"] <= 1
        assert set(row["by_label"]) == {"hall", "yard"}
    assert rows["linear", "encoder"]["accuracy"]["mean"] == 1.0, "two textures that even random weights tell apart"
    assert (record["chance"], record["data"]["train"], record["data"]["test"]) == (0.5, 6, 4)
    assert "most frequent label" in capsys.readouterr().out


def test_attentive_probe_of_an_export_is_refused_with_the_remedy(folder, exported, capsys):
    settings = ["--set", f"encoder.model={exported}", "--set", "encoder.window=2"]
    assert main(["evaluate", "probe", str(folder), *settings]) == 1
    assert "needs tokens, which backend onnxruntime does not give" in capsys.readouterr().err


def test_retrieval_command_finds_the_same_place(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    file = tmp_path / "retrieval.json"
    assert main(["evaluate", "retrieval", str(folder), *TINY, "--no-controls", "--json", str(file)]) == 0
    (row,) = json.loads(file.read_text())["rows"]
    assert row["of"] == "encoder"
    assert row["R@1"]["mean"] == row["mAP"]["mean"] == 1.0
    assert "1.000 (1.000 to 1.000)" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["probe", "retrieval"])
def test_a_leak_between_the_splits_ends_the_command(folder, tmp_path, command, capsys):
    leaky = tmp_path / "leaky"
    for file in folder.rglob("*.mp4"):
        place = leaky / file.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
    (leaky / "test" / "hall" / "renamed.mp4").write_bytes((folder / "train" / "hall" / "0.mp4").read_bytes())
    assert main(["evaluate", command, str(leaky), *TINY]) == 1
    assert "the test split must be held out" in capsys.readouterr().err


def test_retrieval_in_parts_is_retrieval_at_once(monkeypatch):
    clips = [*labelled("abc" * 4, "train"), *labelled("abcab", "test")]
    vectors = np.random.default_rng(0).normal(size=(17, 8)).astype(np.float32)
    at_once = retrieve(vectors, clips)
    monkeypatch.setattr("saccade_ros.studies.retrieval.QUERIES_AT_ONCE", 2)
    assert retrieve(vectors, clips) == at_once


def test_clips_of_ucf101_go_through_the_command(tmp_path):
    lists = tmp_path / "ucfTrainTestlist"
    clips = {1: ["Archery/v_Archery_g08_c01.avi", "Biking/v_Biking_g08_c01.avi"]}
    clips[2] = [name.replace("g08", "g01") for name in clips[1]]
    for n, name in enumerate((*clips[1], *clips[2])):
        write_pan(tmp_path / "UCF-101" / name, place=n % 2, start=n // 2, frames=6)
    write_file(lists / "classInd.txt", "1 Archery\n2 Biking\n")
    write_file(lists / "trainlist02.txt", "".join(f"{name} {n + 1}\n" for n, name in enumerate(clips[1])))
    write_file(lists / "testlist02.txt", "".join(f"{name}\n" for name in clips[2]))
    file = tmp_path / "retrieval.json"
    layout = ["--layout", "ucf101", "--splits", str(lists), "--fold", "2"]
    command = ["evaluate", "retrieval", str(tmp_path / "UCF-101"), *layout, *TINY, "--no-controls"]
    assert main([*command, "--json", str(file)]) == 0
    record = json.loads(file.read_text())
    assert record["data"]["labels"] == ["Archery", "Biking"]
    assert (record["data"]["layout"], record["data"]["fold"]) == ("ucf101", 2)
    assert record["rows"][0]["R@1"]["mean"] == 1.0
