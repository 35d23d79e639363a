"""Options of a benchmark: what cannot be is refused, and the choice of sampling is explicit."""

import pytest

from saccade_ros.knobs import ConfigError
from saccade_ros.replay.modes import PlayOptions
from saccade_ros.replay.schedule import BURST, FIXED, RECORDED, Schedule


@pytest.mark.parametrize(
    ("options", "schedules"),
    [
        ({}, [Schedule(RECORDED, 1.0)]),
        ({"rate": 2.5, "seconds": 9.0}, [Schedule(RECORDED, 2.5, seconds=9.0)]),
        ({"mode": "fixed", "hz": (50.0,)}, [Schedule(FIXED, 50.0, seconds=5.0)]),
        (
            {"mode": "steps", "hz": (10.0, 20.0), "seconds": 2.0},
            [Schedule(FIXED, hz, seconds=2.0) for hz in (10.0, 20.0)],
        ),
        ({"mode": "burst", "burst": 30, "burst_every_s": 0.5}, [Schedule(BURST, 2.0, 30, 5.0)]),
    ],
)
def test_mode_gives_its_schedules(options, schedules):
    assert PlayOptions(**options).schedules == schedules


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"mode": "fixed"}, "give one rate"),
        ({"mode": "fixed", "hz": (1.0, 2.0)}, "give one rate"),
        ({"mode": "steps"}, "give some"),
        ({"mode": "steps", "hz": (10.0, 0.0)}, "give at least"),
        ({"mode": "peak", "encoder": False}, "mode fixed or steps"),
        ({"player": "external", "mode": "peak"}, "only mode recorded"),
        ({"player": "external", "encoder": False}, "only mode recorded"),
        ({"mode": "throughput"}, "choose one of"),
    ],
)
def test_options_that_cannot_be_are_refused(options, why):
    with pytest.raises(ConfigError, match=why):
        PlayOptions(**options)


def test_every_image_is_taken_unless_told_otherwise():
    assert PlayOptions(mode="peak").every_image
    assert not PlayOptions(mode="peak", sampled=True).every_image
    assert not PlayOptions().every_image, "recorded timing is as the robot has it"
