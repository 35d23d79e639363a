"""Sampling by stamp, pairing, starting afresh - and every frame accounted for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade_ros.config import StreamConfig
from saccade_ros.frames import Frame
from saccade_ros.vision.ledger import FrameLedger
from saccade_ros.vision.tubelet import REORDER_NS, TubeletBuffer

SIZE = (480, 640)
MS = 1_000_000


def make_buffer(fps: float = 0.0, max_gap_s: float = 2.0) -> TubeletBuffer:
    return TubeletBuffer(StreamConfig(fps=fps, max_gap_s=max_gap_s), FrameLedger())


def push_all(buffer: TubeletBuffer, stamps_ms: list[float]) -> list:
    """Push frames whose image is their position; return the tubelets."""
    tubelets = [buffer.push(Frame(i, round(ms * MS), "camera"), SIZE) for i, ms in enumerate(stamps_ms)]
    return [t for t in tubelets if t is not None]


def test_every_two_frames_make_a_tubelet_stamped_as_the_newer():
    tubelets = push_all(make_buffer(), [0, 40, 80, 120, 160])
    assert [(t.older.image, t.newer.image, t.stamp_ns // MS, t.index) for t in tubelets] == [
        (0, 1, 40, 0),
        (2, 3, 120, 1),
    ]


@pytest.mark.parametrize(("camera_fps", "target_fps"), [(30, 30), (30, 15), (30, 4), (25, 4), (10, 4), (29.97, 10)])
def test_sampled_frames_are_the_nearest_to_the_target_grid(camera_fps, target_fps):
    stamps = [1000 * i / camera_fps for i in range(int(camera_fps * 10))]
    tubelets = push_all(make_buffer(target_fps), stamps)
    taken = [stamps[f.image] for t in tubelets for f in (t.older, t.newer)]
    grid = np.arange(len(taken)) * 1000 / target_fps
    assert len(taken) >= 10 * target_fps - 2
    assert np.abs(taken - grid).max() <= 500 / camera_fps + 1e-6


def test_jitter_at_a_camera_as_fast_as_the_target_drops_nothing():
    rng = np.random.default_rng(0)
    stamps = [1000 * i / 30 + rng.uniform(-3, 3) for i in range(300)]
    buffer = make_buffer(fps=30.0)
    push_all(buffer, stamps)
    assert buffer.ledger.dropped["rate"] <= 1


def test_camera_slower_than_the_target_gives_all_its_frames():
    buffer = make_buffer(fps=30.0)
    assert len(push_all(buffer, [100 * i for i in range(20)])) == 10
    assert not buffer.ledger.dropped


def test_backward_jump_starts_a_new_epoch_and_drops_the_half_tubelet():
    """As when a bag loops."""
    buffer = make_buffer()
    tubelets = push_all(buffer, [1000, 1040, 1080, 0, 40])
    assert [(t.epoch, t.index) for t in tubelets] == [(0, 0), (1, 0)]
    assert buffer.ledger.dropped == {"reset": 1}
    assert buffer.ledger.resets == {"time_jump": 1}
    assert buffer.ledger.details == {"time_jump": "0.000000000 s after 1.080000000 s"}


def test_late_and_repeated_frames_are_dropped_and_break_nothing():
    buffer = make_buffer()
    tubelets = push_all(buffer, [1000, 1000, 1040 - REORDER_NS / MS, 1040, 1030, 1080, 1120])
    assert [(t.stamp_ns // MS, t.epoch) for t in tubelets] == [(1040, 0), (1120, 0)]
    assert buffer.ledger.dropped == {"stale_stamp": 3}


def test_gap_longer_than_allowed_starts_a_new_epoch():
    buffer = make_buffer(max_gap_s=0.5)
    tubelets = push_all(buffer, [0, 500, 1001, 1041])
    assert [t.epoch for t in tubelets] == [0, 1]
    assert buffer.ledger.resets == {"gap": 1}
    assert buffer.ledger.details == {"gap": "1.001000000 s after 0.500000000 s"}


@pytest.mark.parametrize(("frame_id", "size"), [("other", SIZE), ("camera", (480, 320))])
def test_another_camera_or_size_starts_a_new_epoch(frame_id, size):
    buffer = make_buffer()
    push_all(buffer, [0, 40, 80])
    assert buffer.push(Frame(3, 120 * MS, frame_id), size) is None
    tubelet = buffer.push(Frame(4, 160 * MS, frame_id), size)
    assert (tubelet.older.image, tubelet.epoch, tubelet.index) == (3, 1, 0)
    assert buffer.ledger.resets == {"source_change": 1}
    now, before = (f"{name!r} of {width} x {height}" for name, (height, width) in ((frame_id, size), ("camera", SIZE)))
    assert buffer.ledger.details == {"source_change": f"{now} after {before}"}


def test_camera_that_never_stamps_is_counted_not_encoded():
    buffer = make_buffer()
    assert push_all(buffer, [0] * 10) == []
    assert buffer.ledger.dropped["stale_stamp"] == 9
    assert buffer.ledger.details == {"stale_stamp": "0.000000000 s after 0.000000000 s"}


@given(
    st.lists(st.integers(0, 5_000), max_size=60),
    st.sampled_from([0.0, 4.0, 30.0]),
    st.sampled_from(["a", "a", "a", "b"]),
)
def test_every_frame_is_in_one_tubelet_or_dropped_or_pending(stamps_ms, fps, frame_id):
    buffer = make_buffer(fps=fps)
    tubelets = []
    for i, ms in enumerate(stamps_ms):
        tubelets.append(buffer.push(Frame(i, ms * MS, frame_id if i % 7 == 0 else "a"), SIZE))
    complete = [t for t in tubelets if t is not None]
    buffer.ledger.use(2 * len(complete))
    assert buffer.ledger.received == len(stamps_ms)
    assert 0 <= buffer.ledger.pending <= 1
    assert all(t.older.image < t.newer.image for t in complete)
    buffer.reset("request")
    assert buffer.ledger.pending == 0
