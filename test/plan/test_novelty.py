"""Measures of novelty: what each compares, and what the product's learns."""

import numpy as np
import pytest

from saccade_ros.config import GateConfig
from saccade_ros.frames import IMAGENET_MEAN, IMAGENET_STD, Observation
from saccade_ros.plan.ageing import POWER
from saccade_ros.plan.change import PatchResponse
from saccade_ros.plan.novelty import POLICIES, SAFETY, PredictedLoss
from saccade_ros.plan.patch_change import PatchChange

WINDOW = 7
RATE = 2 / (WINDOW + 1)
SCENE = np.eye(4, 8, dtype=np.float32)
ALL = np.arange(4)


def picture(level: float) -> np.ndarray:
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return np.broadcast_to((level - mean) / std, (2, 3, 8, 8))


def seen(features: np.ndarray, seconds: float = 0.0, level: float = 0.5) -> Observation:
    return Observation(features, round(seconds * 1e9), picture(level))


class Followed:
    """A measure and the patches that it reads, told of the scene at time 0."""

    def __init__(self, policy: str) -> None:
        self.novelty = POLICIES[policy](GateConfig(loss_per_change=0.5), WINDOW)
        self.patches = PatchChange(PatchResponse(np.zeros(8, np.float32), 0.0))
        self.commit(seen(SCENE), encoded=True)

    def commit(self, shown: Observation, encoded: bool) -> None:
        self.patches.commit(shown, ALL if encoded else ALL[:0])
        self.novelty.commit(shown, encoded)

    def measure(self, shown: Observation) -> float:
        return self.novelty.measure(shown, self.patches)


def moved(by: float) -> np.ndarray:
    features = SCENE.copy()
    features[:, 7] += by
    return features


def test_predicted_loss_grows_as_the_change_enters_the_window():
    """A fading mean of the pictures moves by a share of what is left of the way."""
    gate = Followed("predicted")
    expected = []
    for n in range(1, 5):
        expected.append(SAFETY * 0.5 * 0.2 * (1 - (1 - RATE) ** n))
        assert gate.measure(seen(moved(0.2))) == pytest.approx(expected[-1], rel=0.05)  # noise is taken off
        gate.commit(seen(moved(0.2)), encoded=False)
    gate.commit(seen(moved(0.2)), encoded=True)
    assert gate.measure(seen(moved(0.2))) < expected[0] / 2


def test_a_window_that_still_fills_with_the_new_scene_goes_on_changing_after_an_encode():
    """After a cut one encode is not enough: the embedding still holds the scene before."""
    gate = Followed("predicted")
    gate.measure(seen(moved(2.0)))
    gate.commit(seen(moved(2.0)), encoded=True)
    after = []
    for _ in range(4):
        after.append(gate.measure(seen(moved(2.0))))
        gate.commit(seen(moved(2.0)), encoded=False)
    assert after == sorted(after)
    assert after[0] > 0.1


def test_predicted_loss_learns_from_the_losses_found():
    gate = Followed("predicted")
    before = gate.measure(seen(moved(0.5)))
    gate.novelty.learn(2 * before / SAFETY)
    assert gate.measure(seen(moved(0.5))) > 1.2 * before
    gate.novelty.reset()
    assert isinstance(gate.novelty, PredictedLoss)
    assert gate.novelty.scale.factor > 1.2, "another epoch is most often the same place"


def test_predicted_loss_counts_for_more_where_embeddings_seldom_last_so_long():
    gate = Followed("predicted")
    for second in (1.0, 2.0, 3.0):
        gate.measure(seen(SCENE, second))
        gate.commit(seen(SCENE, second), encoded=True)
    at_once, usual, late = (gate.measure(seen(moved(0.2), 3.0 + age_s)) for age_s in (0.1, 1.0, 4.0))
    assert at_once == usual
    assert late == pytest.approx(usual * 4**POWER)


def test_pixel_difference_is_in_shares_of_white_to_the_last_encoded_picture():
    gate = Followed("pixels")
    for level in (0.55, 0.6):
        assert gate.measure(seen(SCENE, level=level)) == pytest.approx(level - 0.5, abs=1e-5)
        gate.commit(seen(SCENE, level=level), encoded=False)
    gate.commit(seen(SCENE, level=0.6), encoded=True)
    assert gate.measure(seen(SCENE, level=0.6)) == pytest.approx(0, abs=1e-6)


def test_previous_compares_with_the_tubelet_before_encoded_or_not():
    gate = Followed("previous")
    assert gate.measure(seen(moved(0.1))) == pytest.approx(0.1, rel=1e-4)
    gate.commit(seen(moved(0.1)), encoded=False)
    assert gate.measure(seen(moved(0.1))) == 0


def test_even_tells_the_seconds_since_the_last_encode():
    gate = Followed("even")
    gate.commit(seen(SCENE, 1.0), encoded=True)
    gate.commit(seen(SCENE, 2.0), encoded=False)
    assert gate.measure(seen(SCENE, 3.5)) == 2.5
