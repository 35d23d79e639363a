"""The centred cosine by hand, and what it sees that a plain one hides."""

import numpy as np
import pytest

from saccade_ros.measure.metrics import bootstrap, centred_cosine, cosine_table, linear_cka, summarize


def test_cosine_is_taken_after_the_mean_of_the_reference():
    reference = np.array([[101, 0], [99, 0], [100, 1], [100, -1]], np.float32)  # mean (100, 0)
    vectors = np.array([[105, 0], [101, 0], [100, 2], [101, 0]], np.float32)
    assert centred_cosine(vectors, reference).tolist() == pytest.approx([1, -1, 1, 0])


def test_a_centre_that_is_given_takes_the_place_of_the_mean():
    centre = np.array([10, 10], np.float32)
    vectors, reference = np.array([[11, 10], [13, 14]], np.float32), np.array([[9, 10], [16, 18]], np.float32)
    assert centred_cosine(vectors, reference, centre).tolist() == pytest.approx([-1, 1])
    assert centred_cosine(vectors[0], reference[0], centre) == pytest.approx(-1)


def test_common_part_that_makes_a_plain_cosine_look_good_is_left_out():
    rng = np.random.default_rng(0)
    common, own = 100 * rng.standard_normal(64), rng.standard_normal((2, 20, 64))
    assert centred_cosine(common + own[0], common + own[0]).min() == 1.0
    assert np.abs(centred_cosine(common + own[1], common + own[0])).mean() < 0.3


def test_pairs_without_a_direction_agree_with_each_other_and_with_nothing_else():
    same = np.ones((3, 4), np.float32)
    assert centred_cosine(same, same).tolist() == [1, 1, 1]
    assert centred_cosine(same * (1 + 1e-7), same).tolist() == [1, 1, 1], "equal up to rounding"
    centre = np.zeros(4)
    assert centred_cosine(same, 0 * same, centre).tolist() == [0, 0, 0]


def test_a_pair_with_nan_reads_nan():
    vectors = np.array([[np.nan, 1.0], [1.0, 2.0]])
    cosines = centred_cosine(vectors, np.array([[1.0, 1.0], [2.0, 3.0]]))
    assert np.isnan(cosines).tolist() == [True, False]


def test_summary_by_hand():
    assert summarize(np.array([1.0, -1, 1, 0])) == pytest.approx((0.25, -0.85, -1))
    assert summarize(np.array([0.5]))._asdict() == {"mean": 0.5, "p5": 0.5, "worst": 0.5}


def test_table_holds_the_centred_cosine_of_every_pair():
    rng = np.random.default_rng(0)
    queries, gallery, centre = (rng.normal(3, 1, shape).astype(np.float32) for shape in ((4, 8), (5, 8), 8))
    table = cosine_table(queries, gallery, centre)
    for query, row in zip(queries, table, strict=True):
        assert row == pytest.approx(centred_cosine(np.tile(query, (5, 1)), gallery, centre))
    assert cosine_table(centre[None], gallery, centre).tolist() == [[0.0] * 5]


def test_bootstrap_resamples_whole_groups():
    values = np.repeat([0.0, 1.0], 50)
    alone = bootstrap(values, [str(i) for i in range(100)])
    by_group = bootstrap(values, ["a"] * 50 + ["b"] * 50)
    assert alone.mean == by_group.mean == 0.5
    assert 0.38 < alone.low < 0.45 < 0.55 < alone.high < 0.62  # 0.5 +- 1.96 * 0.05
    assert (by_group.low, by_group.high) == (0.0, 1.0)
    assert bootstrap(values, ["a"] * 100) == (0.5, 0.5, 0.5)


def test_linear_cka_is_the_alignment_of_the_centred_similarity_matrices():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 5)) + 3, rng.standard_normal((30, 7)) - 2
    ours, theirs = ((part - part.mean(0)) @ (part - part.mean(0)).T for part in (x, y))  # (30, 30) each
    assert linear_cka(x, y) == pytest.approx(
        (ours * theirs).sum() / np.sqrt((ours * ours).sum() * (theirs * theirs).sum())
    )
    assert linear_cka(x, y) < 0.5


def test_linear_cka_sees_neither_rotation_nor_scale_nor_shift():
    rng = np.random.default_rng(1)
    x, rotation = rng.standard_normal((40, 6)), np.linalg.qr(rng.standard_normal((6, 6)))[0]
    assert linear_cka(5 * x @ rotation + 2, x) == pytest.approx(1)
    assert linear_cka(x, np.ones((40, 3))) == 0.0
