"""The generated scenes are what their names say."""

import numpy as np
import pytest

from saccade_ros.studies.scenes import FRAMES, HEIGHT, WIDTH, generated_scenes

SCENES = {scene.name: scene for scene in generated_scenes()}


def drawn(name: str, frame: int) -> np.ndarray:
    return SCENES[name].draw(frame)


def change(name: str, before: int, after: int) -> float:
    return float(np.abs(drawn(name, after) - drawn(name, before)).mean())


def test_all_that_the_issue_names_are_there():
    wanted = ["static", "noise", "exposure step", "100 Hz flicker", "1-px vibration", "slow pan"]
    assert list(SCENES) == [*wanted, "small distant mover", "cut", "ego-motion"]


@pytest.mark.parametrize("name", SCENES)
def test_pictures_have_the_camera_s_shape_and_stay_in_range(name):
    for frame in (0, 70, FRAMES - 1):
        picture = drawn(name, frame)
        assert picture.shape == (HEIGHT, WIDTH, 3)
        assert picture.min() >= 0
        assert np.percentile(picture, 99) <= 255


def test_frames_are_the_same_each_time_and_stamped_at_25_hz():
    first, again = (next(iter(SCENES["noise"].frames())) for _ in range(2))
    assert np.array_equal(first.image, again.image)
    stamps = [frame.stamp_ns for frame in SCENES["static"].frames()]
    assert set(np.diff(stamps)) == {40_000_000}


def test_events_are_where_something_appears():
    for name in ("exposure step", "small distant mover", "cut"):
        for event in SCENES[name].events:
            assert change(name, event - 1, event) > 0
    assert change("cut", 74, 75) > 20
    assert change("exposure step", 59, 60) > 10
    assert 59 not in SCENES["exposure step"].events


def test_slow_pan_is_slow_and_goes_far():
    assert change("slow pan", 100, 101) < 5
    assert change("slow pan", 0, 250) > 10


def test_mover_is_small():
    difference = np.abs(drawn("small distant mover", 60) - drawn("small distant mover", 0)).max(axis=2) > 0
    assert 0 < difference.sum() <= 100
