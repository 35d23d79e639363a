"""The plan of a tubelet's tokens: what it takes and what it refuses."""

import numpy as np
import pytest

from saccade_ros.frames import TokenPlan


def test_dense_plan_has_every_token_and_reuse_none():
    dense, reuse = TokenPlan.dense(4, "novelty"), TokenPlan.reuse()
    assert (dense.token_idx.tolist(), dense.size, dense.reason) == ([0, 1, 2, 3], 4, "novelty")
    assert (reuse.token_idx.tolist(), reuse.size, reuse.reason) == ([], 0, "")
    assert dense.token_idx.dtype == reuse.token_idx.dtype == np.int64


@pytest.mark.parametrize(
    "token_idx",
    [
        np.array([2, 1]),
        np.array([1, 1]),
        np.array([-1, 0]),
        np.array([0, 1], np.int32),
        np.array([0.0, 1.0]),
        np.array([[0, 1]]),
        np.array([True, False]),
    ],
)
def test_tokens_that_are_not_ascending_int64_are_refused(token_idx):
    with pytest.raises(ValueError, match="give int64"):
        TokenPlan(token_idx, "novelty")
