"""The record of a replay: as its schema says, null with a reason, and no result where it is none."""

import json
from pathlib import Path

import pytest
from clips import write_video
from scenes import tiny_config
from trials import benchmarked, search, trial

from saccade_ros.recordings import open_source
from saccade_ros.replay.inprocess import replay
from saccade_ros.replay.record import make_record
from saccade_ros.replay.recording import Recording, Totals
from saccade_ros.replay.ros2_benchmark import ros2_benchmark_block
from saccade_ros.replay.trial import Benchmark

SCHEMA = Path(__file__).parents[2] / "docs" / "replay.schema.json"
PEAK = search(trial(10), trial(40, passed=False), trial(20), peak_hz=20.0)


@pytest.fixture(scope="module")
def played(tmp_path_factory) -> Recording:
    """A clip through the tiny model, in this process, with its fidelity."""
    with open_source(write_video(tmp_path_factory.mktemp("clip") / "clip.mp4")) as source:
        return replay(source, tiny_config(), lambda *_: None, with_fidelity=True)


def problems_of(record: dict) -> list[str]:
    """Where a record, as it is written, is not as the schema says."""
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema; `make test` brings it")
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    written = json.loads(json.dumps(record, allow_nan=False))
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(written)]


def test_record_of_a_replay_in_process_is_as_the_schema_says(played):
    record = make_record(played)
    assert problems_of(record) == []
    assert record["mode"] == "offline"
    assert sum(record["classes"].values()) == record["frames_in"]
    assert record["parameters"]["encoder.window"] == 3
    assert record["fidelity"]["samples"] == record["tubelets"]


@pytest.mark.parametrize(
    "recording",
    [
        Recording(),
        Recording(environment={"gate_tau": float("nan")}),
        benchmarked(PEAK),
        benchmarked(Benchmark("fixed", {"rate": 20.0}, (trial(20, arrivals=(), end_to_end_ms=(), latency_ms=()),))),
        benchmarked(search(trial(10, passed=False, held=False, rss_mb=(), joules={"rapl:package-0": 3.0}))),
    ],
    ids=["empty", "not a number", "peak", "nothing came", "no result"],
)
def test_record_is_as_the_schema_says(recording):
    assert problems_of(make_record(recording)) == []


def test_schema_refuses_a_figure_it_does_not_know_and_one_that_is_missing():
    record = make_record(benchmarked(PEAK))
    assert problems_of({**record, "invented": 1})
    assert problems_of({name: value for name, value in record.items() if name != "latency_ms"})
    assert problems_of({**record, "trials": [{**record["trials"][0], "p50": 1.0}]})
    assert problems_of({**record, "classes": {"eaten": 1}})


def test_top_of_the_record_is_the_trial_quoted():
    record = make_record(benchmarked(PEAK))
    assert record["limits"] == {"sustained_hz": 20.0, "failed_hz": 40.0, "interval_hz": (20.0, 40.0)}
    assert record["latency_ms"] == record["trials"][2]["latency_ms"]
    assert record["startup"] == {"cold_configure_s": 2.5, "warm_configure_s": 1.25, "first_embedding_s": 0.4}


def test_every_null_has_a_reason(played):
    for recording in (played, benchmarked(PEAK), benchmarked(search(trial(10, arrivals=(), rss_mb=()), peak_hz=10.0))):
        record = make_record(recording)
        parts = {name: list(value.values()) if isinstance(value, dict) else [value] for name, value in record.items()}
        empty = {name for name, values in parts.items() if values and all(value is None for value in values)}
        assert empty - {"ros2_benchmark"} <= set(record["missing"])


@pytest.mark.parametrize(
    ("recording", "why"),
    [
        (benchmarked(Benchmark("fixed", {}, (trial(40, held=False),))), "The player could not hold 40 Hz"),
        (benchmarked(search(trial(10, played=401), peak_hz=10.0)), "at 10 Hz 401 frames were played, and 400 are"),
        (benchmarked(search(trial(10, passed=False), remark="Nothing passed.")), "No peak was found. Nothing passed."),
        (Recording(totals=Totals(10, 8, {"rate": 1})), "10 frames in, 8 used, 1 dropped"),
    ],
    ids=["late player", "a frame too many", "no peak", "ledger"],
)
def test_what_is_no_result_says_so(recording, why):
    record = make_record(recording)
    assert not record["is_result"]
    assert any(why in problem for problem in record["problems"])


def test_trial_whose_player_was_late_spoils_no_other():
    assert make_record(benchmarked(search(trial(10), trial(80, held=False, passed=False), peak_hz=10.0)))["is_result"]


@pytest.mark.parametrize("mode", ["peak", "steps", "fixed"])
@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("played", [400, 401])
@pytest.mark.parametrize("peak_hz", [10.0, None])
def test_record_and_exit_status_agree_on_what_is_a_result(mode, held, played, peak_hz):
    benchmark = Benchmark(mode, {}, (trial(10, played=played), trial(20, held=held)), peak_hz)
    assert make_record(benchmarked(benchmark))["is_result"] == benchmark.is_result


def test_ros2_benchmark_block_by_hand():
    block = ros2_benchmark_block(benchmarked(PEAK))
    quoted, times = PEAK.trials[2], [arrival.received_s for arrival in PEAK.trials[2].arrivals]
    duration_s = times[-1] - times[0]
    assert block["BasicPerformanceMetrics.RECEIVED_DURATION"] == pytest.approx(1e3 * duration_s)
    assert block["BasicPerformanceMetrics.MEAN_FRAME_RATE"] == pytest.approx(372 / duration_s), "images, not embeddings"
    assert block["BasicPerformanceMetrics.NUM_FRAMES_SENT"] == 400
    assert block["BasicPerformanceMetrics.NUM_MISSED_FRAMES"] == 28
    assert block["BasicPerformanceMetrics.LAST_SENT_RECEIVED_LATENCY"] == pytest.approx(1e3 * (times[-1] - 20.0))
    assert block["BasicPerformanceMetrics.MAX_LATENCY"] == max(quoted.end_to_end_ms)
    changes = [abs(c - 2 * b + a) for a, b, c in zip(times, times[1:], times[2:], strict=False)]
    assert block["BasicPerformanceMetrics.MEAN_JITTER"] == pytest.approx(1e3 * sum(changes) / len(changes))
    assert {name for name in block if name.endswith("fps")} == {"10.0fps", "40.0fps"}
    assert block["metadata"]["BenchmarkMetadata.PEAK_THROUGHPUT_PREDICTION"] == 20.0
    assert block["metadata"]["BenchmarkMetadata.INPUT_DATA_HASH"] == "cd" * 32
