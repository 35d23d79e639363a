"""Ranking measures by hand, and against their definitions written as loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from saccade_ros.measure.retrieval import auc, average_precision, rank, recall_at

few_values = st.integers(-3, 3).map(float)  # so that there are ties
scores = st.lists(few_values, min_size=1, max_size=8).map(np.array)
weights = st.integers(1, 5)


def tables():
    """A table of similarities, which entries are right, and which are candidates."""
    shape = st.tuples(st.integers(1, 4), st.integers(1, 6))
    return shape.flatmap(
        lambda s: st.tuples(arrays(float, s, elements=few_values), *(arrays(bool, s) for _ in range(2)))
    )


def test_auc_by_hand():
    assert auc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1.0
    assert auc(np.array([1.0]), np.array([0.0, 1.0, 2.0, 3.0])) == (1 + 0.5) / 4
    assert auc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
    assert auc(np.array([1.0, 5.0]), np.array([3.0]), positive_weights=np.array([3, 1])) == 0.25
    with pytest.raises(ValueError, match="0 positives and 1 negatives"):
        auc(np.array([]), np.array([1.0]))


@given(scores, scores, st.data())
def test_auc_is_the_weighted_fraction_of_pairs_in_order(positives, negatives, data):
    above, below = (np.array(data.draw(st.tuples(*[weights] * len(s)))) for s in (positives, negatives))
    pairs = [
        (v * w, 1.0 if p > n else 0.5 if p == n else 0.0)
        for p, v in zip(positives, above, strict=True)
        for n, w in zip(negatives, below, strict=True)
    ]
    expected = sum(w * win for w, win in pairs) / sum(w for w, _ in pairs)
    assert auc(positives, negatives, above, below) == pytest.approx(expected)


def ranked_by_definition(row, right, candidates):
    """Right or wrong by falling similarity; of equals the wrong ones first."""
    return [r for _, r in sorted((-s, r) for s, r, c in zip(row, right, candidates, strict=True) if c)]


@given(tables(), st.integers(1, 7))
def test_recall_is_a_right_one_among_the_first_k_candidates(table, k):
    similarity, right, candidates = table
    expected = [any(ranked_by_definition(*rows)[:k]) for rows in zip(similarity, right, candidates, strict=True)]
    assert recall_at(k, rank(similarity, right, candidates)).tolist() == expected


@given(tables())
def test_average_precision_is_the_mean_precision_at_right_ranks(table):
    similarity, right, _ = table
    right[:, 0] = True  # one at least
    for row, wanted, found in zip(similarity, right, average_precision(rank(similarity, right)), strict=True):
        ranked = ranked_by_definition(row, wanted, np.ones_like(wanted))
        at = [sum(ranked[: i + 1]) / (i + 1) for i in range(len(ranked)) if ranked[i]]
        assert found == pytest.approx(sum(at) / len(at))


def test_rankings_by_hand():
    similarity = np.array([[0.9, 0.8, 0.7, 0.6]])
    right = np.array([[False, True, False, True]])
    assert [bool(recall_at(k, rank(similarity, right))[0]) for k in (1, 2)] == [False, True]
    assert average_precision(rank(similarity, right))[0] == (1 / 2 + 2 / 4) / 2
    with pytest.raises(ValueError, match="query 0 has no right entry"):
        average_precision(~np.ones_like(right))


def test_an_encoder_that_gives_everything_the_same_vector_finds_nothing():
    assert not recall_at(1, rank(np.zeros((3, 3)), np.eye(3, dtype=bool))).any()
