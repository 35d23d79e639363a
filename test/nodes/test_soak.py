"""Two minutes of `saccade soak`, and the judgement of what it measured."""

import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2; `make test` brings it")

from saccade_ros.measure.progress import silent  # noqa: E402
from saccade_ros.nodes.soak import Options, exit_status, judge, run, table  # noqa: E402
from saccade_ros.replay.recording import EmbeddingRow, Recording, Totals  # noqa: E402

pytestmark = pytest.mark.ros

ROW = {
    "stream": "/soak/image_raw/compressed",
    "encoded": True,
    "novelty": 1.0,
    "novelty_threshold": 0.2,
    "tokens_computed": 64,
    "tokens": 64,
}
ROW |= {"reuse_count": 0, "stream_epoch": 0, "tubelet_index": 0}
ROW |= {"queue_ms": 0.0, "decode_ms": 1.0, "gate_ms": 1.0, "encode_ms": 5.0}


@pytest.mark.timeout(400)
def test_two_minutes_with_faults_of_every_kind_leave_memory_and_counts_as_they_are():
    """Two minutes are too short to see 0.3 MB a minute: pages that are touched for the first time still count.

    Latency is not asserted: it depends on what else this machine does, and on a busy one its p99 is not flat.
    """
    record = run(Options(minutes=2.0, model="tiny", max_slope=5.0), silent)
    assert {promise for promise, held in record["held"].items() if held} >= {"memory", "counts", "faults"}, record
    assert record["frames"]["played"] == 3600


def soaked(**changes: object) -> Recording:
    """A recording in which every promise held, but for the changes."""
    totals = Totals(frames_in=800, frames_used=780, frames_dropped={"encoder_error": 20}, published=390, received=390)
    for name in ("frames_used", "received"):
        setattr(totals, name, changes.get(name, getattr(totals, name)))
    later_ms = changes.get("later_ms", 10.0)
    rows = [EmbeddingRow(**ROW, stamp_ns=i, total_ms=10.0 if i < 250 else later_ms) for i in range(390)]
    environment = {"weights": "RANDOM", "weights_sha256": "0", "frames_played": 800, "frames_lost_in_transport": 0}
    return Recording(rows=rows, totals=totals, environment=environment)


def growing(mb_per_min: float) -> list[tuple[float, float]]:
    """Memory that grows by 50 MB in the warm-up, and then at this rate."""
    return [(s, 400.0 + min(s, 300) / 6 + mb_per_min * max(0, s - 300) / 60) for s in range(1200)]


@pytest.mark.parametrize(
    ("changes", "slope", "broken"),
    [
        ({}, 0.2, []),
        ({}, 0.4, ["memory"]),
        ({"later_ms": 16.0}, 0.0, ["latency"]),
        ({"frames_used": 778}, 0.0, ["counts"]),
        ({"received": 389}, 0.0, ["counts"]),
    ],
)
def test_record_says_which_promise_did_not_hold(changes, slope, broken):
    record = judge(Options(), soaked(**changes), growing(slope))
    assert [promise for promise, held in record["held"].items() if not held] == broken
    assert exit_status(record) == bool(broken)
    assert table(record).row_count == 4
