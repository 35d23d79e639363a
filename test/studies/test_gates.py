"""The comparison of gates."""

import pytest

from saccade_ros.studies.gates import compare_outcome


@pytest.mark.parametrize(
    ("mean", "p5", "expected"),
    [(0.9, 0.8, "equal"), (0.91, 0.8, "better"), (0.9, 0.79, "worse"), (0.91, 0.79, "mixed")],
)
def test_outcome_is_against_the_better_of_the_two(mean, p5, expected):
    gates = {
        "surprise": {"mean": mean, "p5": p5},
        "pixel difference": {"mean": 0.9, "p5": 0.7},
        "previous tubelet": {"mean": 0.5, "p5": 0.8},
    }
    assert compare_outcome(gates) == expected
