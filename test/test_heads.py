"""Linear classifiers on top of embeddings."""

import json
import math

import numpy as np
import pytest
from safetensors.numpy import save_file
from scenes import frames_of, textured, tiny_config

from saccade_ros.config import GateConfig
from saccade_ros.heads import FORMAT, HeadError, LinearHead, load_head
from saccade_ros.pipeline import Pipeline


def test_classification_is_softmax_by_hand():
    head = LinearHead([[1, 0], [0, 2], [0, 0]], [0, -1, 0.5], ["a", "b", "c"])
    vector = np.array([1, 1.5], np.float32)  # logits 1, 2, 0.5
    assert head.logits(vector).tolist() == [1, 2, 0.5]
    named = head.classify(vector)
    assert named.label == "b"
    assert named.score == pytest.approx(math.exp(2) / (math.exp(1) + math.exp(2) + math.exp(0.5)))


def test_huge_logits_do_not_overflow():
    assert LinearHead([[1e4], [-1e4]], [0, 0], ["a", "b"]).classify(np.ones(1, np.float32)) == ("a", 1.0)


@pytest.mark.parametrize(
    ("weight", "bias", "labels"),
    [([[1, 2]], [0], []), ([[1, 2]], [0, 0], ["a"]), ([1, 2], [0, 0], ["a", "b"]), (np.zeros((0, 2)), [], [])],
)
def test_parts_that_do_not_fit_are_refused(weight, bias, labels):
    with pytest.raises(ValueError, match="give \\(classes, dim\\)"):
        LinearHead(weight, bias, labels)


def own_head(dim: int = 192) -> LinearHead:
    return LinearHead(np.random.default_rng(0).normal(size=(3, dim)), np.zeros(3), ["a", "b", "c"])


def test_own_head_names_every_embedding_of_a_stream():
    head = own_head()
    camera = Pipeline(tiny_config(), head=head).open_stream()
    still = [textured()] * 8 + [textured(seed=1)] * 4
    results = [r for frame in frames_of(still) if (r := camera.push(frame)) is not None]
    assert [r.encoded for r in results] == [True, False, False, False, True, True]  # it still holds the scene before
    for result in results:
        assert (result.label, result.score) == head.classify(result.vector)


def test_without_a_classifier_nothing_is_named():
    camera = Pipeline(tiny_config(gate=GateConfig(enabled=False))).open_stream()
    (result,) = (r for frame in frames_of([textured()] * 2) if (r := camera.push(frame)) is not None)
    assert result.label == ""
    assert math.isnan(result.score)


def test_head_of_another_size_is_refused_at_once():
    with pytest.raises(ValueError, match="takes vectors of 7 values, the encoder gives 192"):
        Pipeline(tiny_config(), head=own_head(7))


# Files


def test_saved_head_names_the_same(tmp_path):
    rng = np.random.default_rng(0)
    head = LinearHead(rng.normal(size=(3, 8)).T.copy().T, [1, 2, 3], ["a", "ü", "c"], "encoder-1")  # not contiguous
    head.save(tmp_path / "head.safetensors")
    loaded = load_head(tmp_path / "head.safetensors", "encoder-1", 8)
    vector = rng.normal(size=8).astype(np.float32)
    assert loaded.classify(vector) == head.classify(vector)
    assert (loaded.labels, loaded.encoder_id) == (("a", "ü", "c"), "encoder-1")
    assert [path.name for path in tmp_path.iterdir()] == ["head.safetensors"]


def test_head_of_no_known_encoder_serves_any(tmp_path):
    own_head(8).save(tmp_path / "head")
    assert load_head(tmp_path / "head", "encoder-1", 8).encoder_id == ""


@pytest.mark.parametrize(
    ("trained_for", "dim", "said"),
    [
        ("encoder-2", 8, "was trained for 'encoder-2', but the encoder is 'encoder-1', .*: train a head on"),
        ("encoder-1", 9, "takes vectors of 9 values, the encoder gives 8: train a head on"),
    ],
)
def test_head_for_another_encoder_is_refused(tmp_path, trained_for, dim, said):
    LinearHead(np.zeros((2, dim)), [0, 0], ["a", "b"], trained_for).save(tmp_path / "head")
    with pytest.raises(HeadError, match=f"encoder.head {tmp_path}/head: {said}"):
        load_head(tmp_path / "head", "encoder-1", 8)


WHOLE = {"format": FORMAT, "encoder_id": "", "labels": json.dumps(["a", "b"])}


@pytest.mark.parametrize(
    ("classes", "metadata", "said"),
    [
        (2, {}, f"is no {FORMAT}; give a file that LinearHead.save wrote"),
        (2, {**WHOLE, "format": "other"}, f"is no {FORMAT}"),
        (2, {**WHOLE, "labels": "[a"}, "is damaged .*; give what LinearHead.save wrote"),
        (2, {**WHOLE, "labels": "3"}, "is damaged"),
        (3, WHOLE, "is damaged .head has weight .3, 8., bias .3,. and 2 labels"),
        (2, {"format": FORMAT, "labels": "[]"}, "is damaged .'encoder_id'"),
    ],
)
def test_file_of_another_kind_is_refused(tmp_path, classes, metadata, said):
    tensors = {"weight": np.zeros((classes, 8), np.float32), "bias": np.zeros(classes, np.float32)}
    save_file(tensors, tmp_path / "head", metadata)
    with pytest.raises(HeadError, match=f"encoder.head {tmp_path}/head: {said}"):
        load_head(tmp_path / "head", "", 8)


def test_file_that_cannot_be_read_is_refused_by_name(tmp_path):
    (tmp_path / "text").write_text("no tensors here")
    for name in ("absent", "text"):
        with pytest.raises(HeadError, match=f"{name}: cannot be read .*; give what LinearHead.save wrote"):
            load_head(tmp_path / name, "", 8)
