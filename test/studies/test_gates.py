"""The comparison of gates."""

import pytest

from saccade_ros.studies.gates import compare_outcome


@pytest.mark.parametrize(
    ("mean", "p5", "expected"),
    [(0.9, 0.8, "equal"), (0.91, 0.8, "better"), (0.9, 0.79, "worse"), (0.91, 0.79, "mixed")],
)
def test_outcome_is_against_the_best_of_the_others(mean, p5, expected):
    gates = {
        "predicted": {"mean": mean, "p5": p5},
        "pixels": {"mean": 0.9, "p5": 0.7},
        "even": {"mean": 0.2, "p5": 0.1},
        "previous": {"mean": 0.5, "p5": 0.8},
    }
    assert compare_outcome(gates) == expected
