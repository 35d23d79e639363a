"""A schedule says which image goes out when, under stamps that only increase."""

import itertools

import numpy as np
import pytest

from saccade_ros.recordings.source import COMPRESSED
from saccade_ros.replay.schedule import BURST, FIXED, RECORDED, Schedule
from saccade_ros.replay.tracks import Track, Tracks

MS = 10**6


def track(topic, times_ms):
    times_ns = np.array(times_ms, np.int64) * MS
    return Track(topic, COMPRESSED, "", times_ns, 5_000 * MS + times_ns, lambda: itertools.repeat(b""))


ONE = Tracks((track("/a", [0, 40, 80, 120]),), 160 * MS, 160 * MS, in_memory=True)
TWO = Tracks((track("/a", [0, 40, 80, 120]), track("/b", [10, 110])), 160 * MS, 160 * MS, in_memory=True)


def due_ms(schedule, tracks=ONE, topic=0):
    return [round(slot.due_s * 1e3, 6) for slot in schedule.slots(tracks) if slot.track == topic]


def test_recorded_timing_once_at_a_rate():
    assert due_ms(Schedule()) == [0, 40, 80, 120]
    assert due_ms(Schedule(rate=2.0)) == [0, 20, 40, 60]
    assert due_ms(Schedule(rate=0.5)) == [0, 80, 160, 240]


def test_recorded_timing_goes_on_a_period_after_its_end():
    assert due_ms(Schedule(seconds=0.25)) == [0, 40, 80, 120, 160, 200, 240]


def test_fixed_rate_is_that_of_each_topic():
    schedule = Schedule(FIXED, 50.0, seconds=0.1)
    assert due_ms(schedule, TWO, 0) == due_ms(schedule, TWO, 1) == [0, 20, 40, 60, 80]


def test_bursts_come_at_once():
    assert due_ms(Schedule(BURST, 10.0, burst=3, seconds=0.2)) == [0, 0, 0, 100, 100, 100]


@pytest.mark.parametrize("schedule", [Schedule(seconds=1.0, rate=3.0), Schedule(FIXED, 70.0, seconds=1.0)])
@pytest.mark.parametrize("passes_before", [0, 5])
def test_stamps_increase_from_pass_to_pass_by_no_more_than_a_period(schedule, passes_before):
    slots = list(schedule.slots(ONE, passes_before))
    assert len(slots) > 8
    steps = np.diff([slot.stamp_ns for slot in slots])
    assert set(steps.tolist()) == {40 * MS}  # nothing that the node takes for a gap or for a jump of time
    assert slots[0].stamp_ns == (5_000 + 160 * passes_before) * MS
    assert [slot.turn for slot in slots[:5]] == [passes_before] * 4 + [passes_before + 1]


def test_topics_keep_their_offsets_in_every_pass():
    slots = list(Schedule(seconds=0.32).slots(TWO))
    assert [slot.due_s for slot in slots] == sorted(slot.due_s for slot in slots)
    assert due_ms(Schedule(seconds=0.32), TWO, 1) == [10, 110, 170, 270]
    assert all(slot.stamp_ns - 5_000 * MS == round(slot.due_s * 1e9) for slot in slots)


@pytest.mark.parametrize(
    ("schedule", "hz"),
    [(Schedule(rate=2.0), 50.0), (Schedule(FIXED, 70.0), 70.0), (Schedule(BURST, 2.0, burst=15), 30.0)],
)
def test_offered_rate_is_that_of_a_topic(schedule, hz):
    assert schedule.offered_hz(ONE) == pytest.approx(hz)


def test_offered_rate_of_recorded_topics_is_their_mean():
    assert Schedule(RECORDED).offered_hz(TWO) == pytest.approx(3 / 0.16)
