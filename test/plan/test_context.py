"""Drift of kept tokens: when a step cannot stand, how long none is tried again, and what is added to an embedding."""

import numpy as np
import pytest

from saccade_ros.plan.context import FAR, LEAST_PACE, MOST_SLACK, RATE, USUAL, UTMOST_CARE, Care, ContextDrift, Sample

WINDOW, SPREAD = 8, 2.0
ONE = np.array([1.0, 0.0, 0.0], np.float32)


def sample(age_s: float = 1.0, lag_s: float = 0.5) -> Sample:
    return Sample(np.array([3, 4]), age_s, lag_s)


def movement(share: float) -> np.ndarray:
    """Movement in a second, of the default sample, at this share of what is far."""
    return ONE * np.float32(share * FAR * SPREAD / 0.5)


def attempt(drift: ContextDrift, share: float) -> bool:
    """A sparse step whose sample moved so far; learn from it. True if it was far."""
    if far := drift.is_far(movement(share), SPREAD, sample()):
        drift.postpone()
    else:
        drift.learn(movement(share), SPREAD, sample())
    return far


def pauses_until_the_next_attempt(drift: ContextDrift) -> int:
    count = 0
    while drift.pauses:
        drift.pass_pause()
        count += 1
    return count


def test_a_step_is_far_off_from_its_limit_on_by_the_mean_over_all_tokens():
    """The drift in a second times the mean lag of all tokens, against the spread."""
    drift = ContextDrift(WINDOW)
    assert drift.is_far(movement(1.001), SPREAD, sample())
    assert not drift.is_far(movement(0.999), SPREAD, sample())
    assert drift.is_far(movement(0.6), SPREAD, sample(lag_s=1.0))
    assert not drift.is_far(movement(1.5), SPREAD, sample(age_s=2.0))
    assert not drift.is_far(movement(1.5), 2 * SPREAD, sample())


def test_judging_changes_nothing():
    drift = ContextDrift(WINDOW)
    attempt(drift, 0.5)
    before = drift.correct(np.zeros(3, np.float32), sample())
    drift.is_far(movement(5.0), SPREAD, sample())
    assert not drift.pauses
    assert np.array_equal(drift.correct(np.zeros(3, np.float32), sample()), before)


def test_each_far_sample_in_a_row_doubles_the_pause_up_to_the_window():
    drift, pauses = ContextDrift(WINDOW), []
    for _ in range(6):
        assert attempt(drift, 2.0)
        pauses.append(pauses_until_the_next_attempt(drift))
    assert pauses == [1, 2, 4, WINDOW, WINDOW, WINDOW]


def test_a_sample_that_is_near_ends_the_doubling():
    drift = ContextDrift(WINDOW)
    for share in (2.0, 2.0, 0.5, 2.0):
        attempt(drift, share)
        count = pauses_until_the_next_attempt(drift)
    assert count == 1


def test_the_correction_is_the_mean_lag_times_the_drift():
    drift, vector = ContextDrift(WINDOW), np.array([5, 6, 7], np.float32)
    assert np.array_equal(drift.correct(vector, sample()), vector)
    attempt(drift, 0.5)
    per_second = RATE * movement(0.5)
    assert drift.correct(vector, sample(lag_s=0.25)) == pytest.approx(vector + 0.25 * per_second)
    assert np.array_equal(drift.correct(vector, sample(lag_s=0.0)), vector)


def test_the_drift_is_a_running_mean_of_samples_by_their_age():
    drift, expected = ContextDrift(WINDOW), np.zeros(3)
    for age_s in (1.0, 2.0, 0.9):
        drift.learn(movement(0.5), 1.0, sample(age_s=age_s))
        expected += RATE * (movement(0.5) / age_s - expected)
    assert drift.correct(np.zeros(3, np.float32), sample(lag_s=1.0)) == pytest.approx(expected)


@pytest.mark.parametrize("forget", ["forget", "reset", "postpone"])
def test_nothing_is_added_after_everything_was_computed(forget):
    drift, vector = ContextDrift(WINDOW), np.ones(3, np.float32)
    attempt(drift, 0.5)
    getattr(drift, forget)()
    assert np.array_equal(drift.correct(vector, sample()), vector)


def test_a_reset_ends_the_pause_and_its_doubling():
    drift = ContextDrift(WINDOW)
    attempt(drift, 2.0)
    attempt(drift, 2.0)
    drift.reset()
    assert not drift.pauses
    attempt(drift, 2.0)
    assert pauses_until_the_next_attempt(drift) == 1


def care_after(share: float, samples: int = 60) -> Care:
    """Care that is asked for once many samples moved by this share of the usual drift."""
    drift = ContextDrift(WINDOW)
    for _ in range(samples):
        attempt(drift, share * USUAL / FAR)
    return drift.care


def test_a_new_stream_and_one_whose_step_could_not_stand_ask_for_utmost_care():
    drift = ContextDrift(WINDOW)
    assert drift.care == UTMOST_CARE
    for _ in range(60):
        attempt(drift, 0.0)
    assert drift.care == (LEAST_PACE, MOST_SLACK)
    assert attempt(drift, 2.0)
    assert drift.care == UTMOST_CARE


def test_the_less_tokens_drift_the_fewer_are_refreshed_and_the_more_change_may_be_left():
    assert care_after(1.01) == care_after(2.0) == UTMOST_CARE
    assert care_after(0.8) == pytest.approx((0.64, 1.0)), "the square of the drift, and no slack yet"
    assert care_after(0.75**0.5 / 2**0.5) == pytest.approx((0.375, (1 + MOST_SLACK) / 2)), "half of the way"
    assert care_after(0.1) == care_after(0.0) == (LEAST_PACE, MOST_SLACK)
