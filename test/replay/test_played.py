"""The player's lateness is reported, and a rate that it could not hold is no result."""

import numpy as np
import pytest

from saccade_ros.replay.played import Played


def played(late_ms, hz=100.0, complete=True):
    """Images due at this rate, and sent so much later."""
    due_ns = np.arange(len(late_ms)) * 1e9 / hz
    images = np.stack([np.zeros(len(late_ms)), due_ns, due_ns, due_ns + np.array(late_ms) * 1e6], axis=1)
    return Played.read({"topics": ["/a"], "images": images.astype(int), "complete": complete, "offered_hz": hz})


def test_lateness_is_that_of_every_image():
    lateness = played([0.0] * 90 + [4.0] * 10).lateness
    assert (lateness.p50_ms, lateness.p99_ms, lateness.max_ms) == pytest.approx((0.0, 4.0, 4.0))


@pytest.mark.parametrize(
    ("late_ms", "hz", "held"),
    [
        ([0.1] * 500, 100.0, True),
        ([0.1] * 499 + [100.0], 100.0, True),  # one of a hundred may be
        ([0.1] * 480 + [30.0] * 20, 100.0, False),
        ([0.1] * 480 + [30.0] * 20, 30.0, True),  # less than a period
        (np.arange(500) * 0.5, 100.0, False),  # ever later: 95 Hz
        (np.arange(500) * 0.01, 1000.0, True),  # 990 Hz
        (np.arange(500) * 0.05, 1000.0, False),  # 952 Hz
    ],
)
def test_a_rate_is_held_if_images_are_in_time(late_ms, hz, held):
    assert played(late_ms, hz).held == held
    assert not played(late_ms, hz, complete=False).held


def test_played_rate_is_the_real_one():
    assert played(np.arange(500) * 10.0, 100.0).played_hz == pytest.approx(50.0)
    assert played([0.0], 100.0).played_hz == 100.0


def test_first_of_two_images_of_one_stamp_is_the_one_that_counts():
    images = [(0, 7, 0, 1), (0, 7, 10, 11), (1, 7, 10, 12)]
    both = Played.read({"topics": ["/a", "/b"], "images": images, "complete": True, "offered_hz": 1.0})
    assert both.sent_by_name() == {("/a", 7): 1, ("/b", 7): 12}
