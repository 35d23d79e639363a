"""Which earlier moments a recording's embeddings say are alike, in bounded memory."""

from itertools import pairwise

import numpy as np
import pytest

from saccade_ros.measure.metrics import centred_cosine
from saccade_ros.replay.moments import APART_NS, GAP_NS, MATCHES, MAX_MOMENTS, Moment, Moments

SECOND = 1_000_000_000


def remembered(vectors: np.ndarray, period_ns: int = SECOND) -> tuple[Moments, list[Moment]]:
    """One embedding per period, and when each was."""
    moments, times = Moments(), [Moment("/camera", 10**9 + i * period_ns) for i in range(len(vectors))]
    for moment, vector in zip(times, vectors, strict=True):
        moments.add(moment, vector)
    return moments, times


def test_moments_of_the_same_scene_are_found_best_first():
    places = np.eye(3)[[0, 1, 2, 0, 1, 2, 0]] + 10.0
    places[3, 0] += 0.1  # the second visit looks a little different
    moments, stamps = remembered(places, 3 * SECOND)
    found = moments.most_similar_earlier(stamps)
    assert stamps[0] not in found, "nothing is earlier"
    assert [match.moment for match in found[stamps[6]]][:2] == [stamps[0], stamps[3]]
    assert found[stamps[6]][0].similarity == 1.0


def test_similarity_is_the_centred_cosine_about_the_mean_of_all_moments():
    vectors = np.random.default_rng(0).normal(5.0, 1.0, (8, 16)).astype(np.float32)
    moments, stamps = remembered(vectors)
    found = moments.most_similar_earlier([stamps[1], stamps[7]])  # the only two with a picture
    (match,) = found[stamps[7]]
    assert match.moment == stamps[1]
    assert match.similarity == pytest.approx(centred_cosine(vectors[1], vectors[7], vectors.mean(axis=0)))


def test_matches_are_neither_just_before_nor_neighbours_of_each_other():
    vectors = np.random.default_rng(0).normal(size=(40, 16)).cumsum(axis=0)  # each close to its neighbours
    moments, stamps = remembered(vectors, SECOND // 4)
    for stamp, matches in moments.most_similar_earlier(stamps).items():
        assert 1 <= len(matches) <= MATCHES
        assert all(stamp.stamp_ns - match.moment.stamp_ns >= GAP_NS for match in matches)
        times = sorted(match.moment.stamp_ns for match in matches)
        assert all(later - earlier >= APART_NS for earlier, later in pairwise(times))


def test_memory_is_bounded_and_what_stays_is_even():
    moments, stamps = remembered(np.ones((5 * MAX_MOMENTS, 2)))
    kept = np.array([stamp.stamp_ns for stamp in stamps if stamp in moments])
    assert MAX_MOMENTS / 2 <= len(kept) <= MAX_MOMENTS
    assert kept[0] == stamps[0].stamp_ns
    assert len(set(np.diff(kept))) == 1


def test_embedding_is_copied_as_its_array_may_be_written_again():
    moments, vector = Moments(), np.ones(4, np.float32)
    start, later = Moment("/camera", 0), Moment("/camera", 5 * SECOND)
    for moment in (start, later):
        moments.add(moment, vector)
        vector[:] = (9.0, -9.0, 0.0, 0.0)
    (match,) = moments.most_similar_earlier([start, later])[later]
    assert match.similarity < 0.99


def test_nothing_remembered_resembles_nothing():
    assert Moments().most_similar_earlier([Moment("/camera", 1), Moment("/camera", 2)]) == {}


def test_cameras_that_share_a_stamp_are_moments_of_their_own():
    moments = Moments()
    for topic, vector in (("/left", (1.0, 0.0)), ("/right", (0.0, 1.0))):
        for second in (0, 5):
            moments.add(Moment(topic, second * SECOND), np.array(vector, np.float32))
    found = moments.most_similar_earlier([Moment(t, s * SECOND) for t in ("/left", "/right") for s in (0, 5)])
    assert {newest.topic: matches[0].moment.topic for newest, matches in found.items()} == {
        "/left": "/left",
        "/right": "/right",
    }
