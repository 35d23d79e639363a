"""Correction of predicted losses by those found."""

import math

import pytest

from saccade_ros.plan.loss_scale import LIMIT, RATE, LossScale


def test_answers_move_it_by_a_share_of_the_way_on_a_log_scale():
    scale = LossScale()
    scale.learn(expected=0.01, found=0.015)
    assert scale.factor == pytest.approx(1.5**RATE)


def test_it_settles_where_predictions_are_right():
    scale = LossScale()
    for _ in range(60):
        scale.learn(expected=0.01, found=0.02)
    assert scale.factor == pytest.approx(2.0, rel=1e-3)
    assert not scale.is_at_upper_limit


@pytest.mark.parametrize(("found", "limit"), [(1.0, LIMIT), (0.0, 1 / LIMIT)])
def test_one_answer_counts_little_and_all_together_stay_within_the_limit(found, limit):
    scale = LossScale()
    scale.learn(0.01, found)
    assert abs(math.log(scale.factor)) <= RATE + 1e-9
    for _ in range(40):
        scale.learn(0.01, found)
    assert scale.factor == pytest.approx(limit)
    assert scale.is_at_upper_limit == (found == 1.0)


@pytest.mark.parametrize(("expected", "found"), [(math.nan, 0.1), (0.01, math.nan), (0.0, 0.1)])
def test_nothing_is_learnt_from_what_is_not_known(expected, found):
    scale = LossScale()
    scale.learn(expected, found)
    assert (scale.factor, scale.answers) == (1.0, 0)
