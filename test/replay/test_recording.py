"""The numbers of a replay add up, and are strict JSON."""

import io
import json
import math

import pytest
from rich.console import Console

from saccade_ros.replay.live import LiveView
from saccade_ros.replay.recording import EmbeddingRow, Recording, Totals, describe_counts, percentile

KEYS = {"frames_in", "frames_used", "frames_dropped", "tubelets", "encoded", "skipped", "published", "received"}
KEYS |= {"latency_ms", "encode_rate", "computed_share", "stage_ms", "encoder_id", "weights", "balanced"}


def row(index, encoded=True, novelty=0.5, total_ms=10.0, **changed):
    values = {"stream": "/camera", "stamp_ns": 10**9 * (index + 1), "novelty_threshold": 0.2}
    values |= {"reuse_count": 0, "stream_epoch": 0, "tokens_computed": 16 if encoded else 0, "tokens": 64}
    values |= {"queue_ms": 1.0, "decode_ms": 2.0, "gate_ms": 3.0, "encode_ms": 4.0 if encoded else 0.0}
    return EmbeddingRow(tubelet_index=index, encoded=encoded, novelty=novelty, total_ms=total_ms, **(values | changed))


@pytest.fixture
def recording():
    rows = [row(i, encoded=i % 4 == 0, novelty=math.nan if i == 0 else 0.1 * i, total_ms=i) for i in range(100)]
    totals = Totals(1000, 200, {"rate": 790, "overflow": 10}, published=100, received=100)
    return Recording(rows, totals, {"encoder_id": "tiny:ab:fp32", "weights": "RANDOM, seed 0", "source": "clip"})


def test_the_counts_add_up(recording):
    summary = recording.summary()
    assert summary["frames_in"] == summary["frames_used"] + sum(summary["frames_dropped"].values())
    assert summary["tubelets"] == summary["encoded"] + summary["skipped"] == 100
    assert (summary["encoded"], summary["encode_rate"]) == (25, 0.25)
    assert summary["computed_share"] == 0.25 * 16 / 64, "of the tokens that dense encoding computes"


def test_numbers_of_tokens_are_described():
    assert describe_counts((32, 64)) == "32, 64"
    assert describe_counts(()) == "any"


def test_the_summary_has_all_keys_and_the_facts_that_tell_runs_apart(recording):
    summary = recording.summary()
    assert summary.keys() >= KEYS
    assert (summary["encoder_id"], summary["weights"]) == ("tiny:ab:fp32", "RANDOM, seed 0")


def test_latency_percentiles_are_over_all_tubelets(recording):
    assert recording.summary()["latency_ms"] == pytest.approx({"p50": 49.5, "p95": 94.05, "p99": 98.01})


def test_the_encode_stage_is_measured_where_the_encoder_ran(recording):
    assert recording.summary()["stage_ms"] == {"decode": 2.0, "gate": 3.0, "encode": 4.0}


@pytest.mark.parametrize(
    "totals",
    [
        Totals(1000, 200, {"rate": 799}, published=100, received=100),
        Totals(1000, 200, {"rate": 800}, published=100, received=99),
    ],
    ids=["a frame is lost", "an embedding is lost"],
)
def test_what_is_lost_unbalances_the_accounts(recording, totals):
    assert recording.summary()["balanced"]
    recording.totals = totals
    assert not recording.summary()["balanced"]


@pytest.mark.parametrize(
    "recording",
    [
        Recording(),
        Recording([row(0, novelty=math.nan, novelty_threshold=math.nan)]),
        Recording([row(0, total_ms=math.nan, decode_ms=math.inf)], environment={"tau": math.nan}),
        Recording([row(0, encoded=False)]),
    ],
    ids=["empty", "gate off", "times missing", "never encoded"],
)
def test_the_summary_is_strict_json(recording):
    summary = recording.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_percentiles_leave_out_what_is_not_finite():
    assert percentile([1.0, math.nan, 3.0, math.inf], 50) == 2.0
    assert percentile([math.nan], 50) is None


def test_the_live_view_prints_plain_lines_where_there_is_no_terminal(recording):
    out = io.StringIO()
    with LiveView(100.0, Console(file=out, width=60)) as view:
        for _ in range(50):
            view.update(recording, 12.3)  # within the same second
        view.finish(recording)
    first, *rest = out.getvalue().splitlines()
    assert first.startswith("12/100 s  frames 1000  tubelets 100  encoded 25  skipped 75  tokens 6%")
    assert any("tokens computed" in line and "6% of those of dense" in line for line in rest)
    assert not any(line.startswith("12/100 s") for line in rest)
    assert "\x1b" not in out.getvalue()
    assert "RANDOM" in out.getvalue()


def test_the_live_view_copes_with_nothing_to_show():
    out = io.StringIO()
    with LiveView(None, Console(file=out)) as view:
        view.update(Recording(), 0.0)
        view.finish(Recording())
    assert "tokens -  novelty -" in out.getvalue()
