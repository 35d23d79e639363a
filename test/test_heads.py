"""Linear classifiers on top of embeddings."""

import math

import numpy as np
import pytest
from scenes import frames_of, textured, tiny_config

from saccade_ros.config import GateConfig
from saccade_ros.pipeline import Pipeline
from saccade_ros.heads import LinearHead


def test_verdict_is_softmax_by_hand():
    head = LinearHead([[1, 0], [0, 2], [0, 0]], [0, -1, 0.5], ["a", "b", "c"])
    vector = np.array([1, 1.5], np.float32)  # logits 1, 2, 0.5
    assert head.logits(vector).tolist() == [1, 2, 0.5]
    verdict = head.classify(vector)
    assert verdict.label == "b"
    assert verdict.score == pytest.approx(math.exp(2) / (math.exp(1) + math.exp(2) + math.exp(0.5)))


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
    assert [r.encoded for r in results] == [True, False, False, False, True, False]
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
