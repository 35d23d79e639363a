"""The bench card: every row is measured, or named with its reason, and no model's end is the card's."""

import itertools
import json
import os
from dataclasses import replace

import figures
import pytest
from rich.console import Console

from saccade_ros.knobs import ConfigError
from saccade_ros.measure.progress import silent
from saccade_ros.runtimes import RUNTIMES
from saccade_ros.studies import card, card_model
from saccade_ros.studies.card_model import Job, measure_model, slow_variants

TORCH = Job("tiny", ("torch",), seconds=600.0, window=2, device="cpu", threads=1)


def whole(job):
    """All that is measured of a model."""
    *_, last = measure_model(job)
    return last


def reasons(measured):
    return {(row["runtime"], row["precision"]): row["reason"] for row in measured["left_out"]}


@pytest.fixture(scope="module")
def measured():
    return whole(TORCH)


def test_every_precision_is_timed_dense_and_sparse_or_left_out(measured):
    rows = {(row["runtime"], row["precision"]) for row in measured["steps"]}
    assert rows >= {("torch", "fp32"), ("torch", "bf16")}
    offered = {(name, precision) for name, runtime in RUNTIMES.items() for precision in runtime.precisions}
    assert rows | set(reasons(measured)) == offered
    assert reasons(measured)["onnxruntime", "fp32"].startswith("onnxruntime does not run here")
    for row in measured["steps"]:
        assert row["dense_ms"]["runs"] >= 3
        assert [(part["share"], part["computed"]) for part in row["sparse_ms"]] == [(0.25, 0.25), (0.1, 6 / 64)]
    assert measured["weights_random"]
    assert set(measured["gate_ms"]) == {"embed", "skip", "open"}


def test_what_time_does_not_allow_is_named_with_the_remedy():
    left_out = whole(Job("tiny", ("torch",), seconds=0.0))
    assert left_out["steps"] == []
    assert "time: " in reasons(left_out)["torch", "fp32"]
    assert reasons(left_out)["torch", "fp32"].endswith("raise --seconds")


def test_what_memory_does_not_allow_is_not_loaded(monkeypatch):
    monkeypatch.setattr(card_model, "available_bytes", lambda: 3_400_000_000)  # a Pi 5 with 4 GB
    assert "memory: it takes about 5" in reasons(whole(Job("vith", ("torch",), 60.0)))["torch", "fp32"]


def test_rows_that_do_not_fit_beside_each_other_are_measured_one_after_the_other(monkeypatch):
    free = itertools.chain([10**10], itertools.cycle([1, 10**10]))  # little beside a loaded row, enough without it
    monkeypatch.setattr(card_model, "available_bytes", lambda: next(free))
    together = instant(monkeypatch)
    *parts, measured = measure_model(TORCH)
    assert len(parts[0]["steps"]) == 1, "what is measured is handed over before the next but one is loaded"
    assert [row["precision"] for row in measured["steps"]] == ["fp32", "bf16", "int8"]
    assert set(together) == {3}, "a dense and two sparse steps of one row at a time, and the gate's three"


def test_fastest_is_measured_on_one_thread_too(monkeypatch):
    instant(monkeypatch)
    *several, alone = whole(replace(TORCH, threads=2))["steps"]
    assert [row["threads"] for row in several] == [2, 2, 2]
    assert (alone["threads"], alone["precision"]) == (1, "fp32")


def instant(monkeypatch):
    """Let every call take a millisecond, unseen; list how many take turns."""
    together: list[int] = []

    def timed(calls, rounds):
        together.append(len(calls))
        return {name: [1.0] * 3 for name in calls}

    monkeypatch.setattr(card_model, "interleave", timed)
    return together


def test_model_that_is_none_is_refused_before_anything_is_measured():
    with pytest.raises(ConfigError, match=r"no-such-model: no config\.json"):
        card.run(card.Options(models=("tiny", "no-such-model")), silent)


def yield_and_exit(status):
    yield "a first part"
    os._exit(status)


def test_part_whose_process_dies_or_fails_leaves_the_card_with_what_there_was():
    assert card._apart(iter, "four") == ("r", "")
    assert card._apart(yield_and_exit, 7)[0] == "a first part"
    assert "ended with status 7" in card._apart(yield_and_exit, 7)[1]
    assert card._apart(iter, 4) == (None, "TypeError: 'int' object is not iterable")


def test_what_is_many_times_slower_is_not_tried_with_larger_models():
    rows = [("torch", "fp32", 10.0), ("torch", "int8", 60.0), ("onnxruntime", "fp32", 49.0)]
    steps = [{"runtime": name, "precision": kind, "dense_ms": {"median": ms}} for name, kind, ms in rows]
    assert slow_variants({"steps": steps}) == [("torch", "int8")]
    assert slow_variants({"steps": []}) == []
    left_out = whole(replace(TORCH, slow=(("torch", "fp32"), ("torch", "bf16"), ("torch", "int8"))))
    assert reasons(left_out)["torch", "int8"].startswith("slow: over 5 times")


@pytest.fixture(scope="module")
def record():
    return card.run(card.Options(models=("tiny",), seconds=600.0, window=2, threads=1, rounds=1), silent)


@pytest.mark.timeout(600)  # it exports and loads in every runtime
def test_card_holds_every_runtime_that_works_here(record):
    (tiny,) = record["models"]
    working = {name for name, state in record["runtimes"].items() if state.startswith("ok")}
    assert {row["runtime"] for row in tiny["steps"]} == working - {"tensorrt"}
    assert {(row["size"], row["form"]) for row in record["decoding"]} >= {("720p", "jpeg"), ("1080p", "bgr8")}
    json.dumps(record, allow_nan=False)


def test_screen_and_readme_show_it(record, tmp_path, monkeypatch):
    console = Console(record=True, width=120)
    console.print(card.table({**record, "busy": True}))
    text = console.export_text()
    assert "onnxruntime" in text
    assert "720p jpeg to 256 px" in text
    assert "run it again alone" in text
    assert "fp16 is for GPUs and Arm" in text or "tensorrt fp16" in text
    (tmp_path / "cards").mkdir()
    default = {**record["models"][0], "model": "default"}
    (tmp_path / "cards" / "one.json").write_text(json.dumps({**record, "models": [default]}))
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    head, _, row = figures.cards().splitlines()
    assert "docs/results/cards/one.json" in row
    assert len(row.split("|")) == len(head.split("|"))
    assert row.split("|")[3:5] == [" – ", " – "], "ViT-B and ViT-L were not asked for"
