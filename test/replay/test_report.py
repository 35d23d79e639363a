"""The page a replay leaves: complete, self-contained, and true to weights and accounts."""

import csv
import json
import math
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from trials import benchmarked, search, trial

from saccade_ros.default_model import ADVICE, SOURCE
from saccade_ros.replay.plots import novelty_timeline
from saccade_ros.replay.recording import EmbeddingRow, Recording, Totals
from saccade_ros.replay.report import render, save_report, thumbnail
from saccade_ros.replay.trial import Benchmark


def row(
    index: int,
    encoded: bool = True,
    novelty: float = 0.5,
    stream: str = "/camera",
    epoch: int = 0,
    tokens_computed: int = 64,
) -> EmbeddingRow:
    return EmbeddingRow(
        stream=stream,
        stamp_ns=10**9 + index * 80_000_000,
        encoded=encoded,
        novelty=novelty,
        novelty_threshold=0.3,
        tokens_computed=tokens_computed if encoded else 0,
        tokens=64,
        reuse_count=0 if encoded else 1,
        stream_epoch=epoch,
        tubelet_index=index,
        queue_ms=0.1,
        decode_ms=1.0,
        gate_ms=0.5,
        encode_ms=8.0 if encoded else 0.0,
        total_ms=9.6 if encoded else 1.6,
    )


def recording(rows: list[EmbeddingRow], **environment: object) -> Recording:
    picture = thumbnail(np.full((48, 64, 3), 128, np.uint8))
    totals = Totals(2 * len(rows) + 3, 2 * len(rows), {"rate": 2, "overflow": 1}, len(rows), len(rows))
    kept = {r.moment: picture for r in rows if r.encoded}
    made = Recording([], totals, {"weights": "checkpoint vitl", "source": "a.mp4", **environment}, kept)
    for index, added in enumerate(rows):
        made.add(added, np.eye(4)[index % 4])
    return made


class Page(HTMLParser):
    """Collects what a page refers to, its text, and whether its tags close."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.pictures = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.pictures += tag == "img"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


MIXED = [row(0, novelty=math.nan), *(row(i, encoded=i % 3 == 0) for i in range(1, 12))]
CASES = {
    "mixed": MIXED,
    "empty": [],
    "one row": [row(0, novelty=math.nan)],
    "nothing encoded": [row(i, encoded=False) for i in range(4)],
    "gate off": [row(i, novelty=math.nan) for i in range(4)],
    "three streams": [row(i, stream=f"/camera{i % 3}") for i in range(12)],
    "resets": [row(i, epoch=i // 4) for i in range(12)],
    "long": [row(i, encoded=i % 50 == 0) for i in range(5000)],
}


@pytest.mark.parametrize("rows", CASES.values(), ids=CASES.keys())
def test_page_is_well_formed_and_refers_to_nothing_outside(rows):
    page = Page(render(recording(rows)))
    assert page.open == []
    outside = [ref for ref in page.references if not ref.startswith(("#", "data:image/jpeg;base64,"))]
    assert outside == []


def test_page_shows_encoded_moments_with_time_and_novelty():
    page = Page(render(recording(MIXED)))
    assert page.pictures == 4
    assert "0.24 s" in page.text
    assert "novelty 0.50" in page.text


def test_page_says_how_many_pictures_are_left_out():
    shown = recording(MIXED)
    del shown.thumbnails[MIXED[3].moment]
    assert "1 more encoded moments are left out" in render(shown)


def test_random_weights_are_announced_and_trained_ones_are_not():
    assert "Random weights." in render(recording(MIXED, weights="RANDOM weights, size tiny, seed 0"))
    assert "Random weights." not in render(recording(MIXED))


MINUTE = [row(25 * i, encoded=True) for i in range(30)]  # 2 s apart; every fourth has the same embedding


def test_trained_weights_are_shown_by_the_earlier_moments_that_look_alike():
    page = Page(render(recording(MINUTE)))
    assert page.pictures == 30 + 4 * 8
    assert page.open == []
    shown = page.text[: page.text.index("Cost of each tubelet")].rstrip()
    assert shown.endswith("58.00 s2.00 s1.0010.00 s1.0018.00 s1.00"), "time; then time and similarity of each match"


def test_random_weights_say_why_no_similar_moments_are_shown():
    page = Page(render(recording(MINUTE, weights="RANDOM weights, size tiny, seed 0")))
    assert page.pictures == 30
    assert "Not shown: with random weights" in page.text


def test_recording_too_short_for_similar_moments_says_so():
    assert "no picture was kept of two moments that are far enough apart" in render(recording(MIXED))


def test_default_model_is_announced_with_what_it_is_good_for():
    assert ADVICE in Page(render(recording(MIXED, weights=SOURCE))).text
    assert "default model" not in render(recording(MIXED))


def test_headline_tells_what_was_computed_or_that_the_accounts_do_not_balance():
    good = recording(MIXED)
    assert "Tokens computed: 33% of those of dense encoding. Every frame" in render(good)
    good.totals.received -= 1
    assert "The accounts do not balance: 27 frames in, 24 used, 3 dropped; 12 embeddings published, 11" in render(good)


def test_sparse_steps_are_counted_by_tokens_in_tile_and_plot():
    """A dense step, then a quarter of the tokens, then a reused embedding: (64 + 16 + 0) of 192."""
    rows = [row(0), row(1, tokens_computed=16), row(2, encoded=False)]
    page = Page(render(recording(rows)))
    assert "tokens computed42%of those of dense encoding" in page.text
    assert "tokens, %" in page.text
    denser = [row(0), row(1, tokens_computed=32), row(2, encoded=False)]
    assert novelty_timeline(recording(rows)) != novelty_timeline(recording(denser)), "drawn over time"


@pytest.mark.parametrize("name", ["/camera/$x^{", "/$frac{1}$", "/a$", "/$$", "/a$b/c$d"])
def test_dollar_signs_in_names_are_shown_as_they_are(name):
    """Between two of them matplotlib reads a formula, and fails where it is none."""
    page = render(recording([row(i, stream=stream) for i in range(4) for stream in (name, "/other")], source=name))
    assert page.count(f">{name}<") >= 2


def test_drops_are_listed_with_their_meaning():
    text = Page(render(recording(MIXED))).text
    assert "replaced by newer" in text
    assert "a newer tubelet was complete before the encoder took this one" in text


def test_names_from_outside_are_escaped():
    assert "<script>" not in render(recording(MIXED, source="<script>alert(1)</script>.mp4", model="<script>"))


@pytest.mark.parametrize("rows", CASES.values(), ids=CASES.keys())
def test_summary_is_strict_json_and_adds_up(rows, tmp_path):
    page, file, *_ = save_report(recording(rows), tmp_path / "new" / "folder")
    assert page.stat().st_size > 1000
    summary = json.loads(file.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert summary["tubelets"] == summary["encoded"] + summary["skipped"] == len(rows)
    assert summary["frames_in"] == summary["frames_used"] + sum(summary["frames_dropped"].values())
    assert summary["balanced"]


def test_summary_percentiles_by_hand():
    summary = recording(MIXED).summary()
    assert summary["latency_ms"]["p50"] == pytest.approx(1.6)
    assert summary["latency_ms"]["p99"] == pytest.approx(9.6)
    assert summary["stage_ms"] == {"decode": 1.0, "gate": 0.5, "encode": 8.0}
    assert summary["encode_rate"] == pytest.approx(4 / 12)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (1, 1), (2000, 3), (3, 2000)])
def test_thumbnail_keeps_the_aspect(height, width):
    import cv2

    jpeg = np.frombuffer(thumbnail(np.zeros((height, width, 3), np.uint8)), np.uint8)
    small = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    scale = 160 / max(height, width)
    assert small.shape[:2] == (max(1, round(height * scale)), max(1, round(width * scale)))


def test_streams_share_one_time_axis():
    late = [row(i, stream="/late") for i in range(50, 60)]
    shown = recording([*late, *(row(i) for i in range(10))])
    assert shown.start_ns == row(0).stamp_ns
    assert "4.00 s" in Page(render(shown)).text
    assert "/late" in Page(render(shown)).text


def test_named_moments_carry_their_label_and_the_summary_counts_them():
    rows = [replace(row(i), label="<grasp>", score=0.75) for i in range(3)]
    page = render(recording([*rows, row(3)]))
    assert page.count("&lt;grasp&gt;") == 3
    assert page.count("75%") == 3
    assert recording([*rows, row(3)]).summary()["labels"] == {"<grasp>": 3}
    assert Page(page).open == []


PEAK = search(trial(10), trial(40, passed=False), trial(20), peak_hz=20.0)


def test_rates_that_luck_decided_are_told():
    shown = recording(MIXED)
    shown.benchmark = search(trial(10), trial(30, passed=False), trial(30), trial(40, passed=False), peak_hz=20.0)
    assert "kept up now and then from 20 to 40 Hz" in Page(render(shown)).text


def test_first_screen_answers_the_five_questions():
    shown = recording(MIXED)
    shown.benchmark = PEAK
    text = Page(render(shown)).text
    assert "How fast?20 Hzimages per second and topic" in text
    assert "did not keep up with 40 Hz" in text
    assert "now and then" not in text
    assert "How late?" in text
    assert "What was saved?67%of the tokens" in text
    assert "What did it cost?not measuredit was not asked for" in text
    assert "What was dropped?2.0%4: lost on the way to the encoder4: a newer tubelet was complete" in text
    assert "20 more were not sampled" in text
    assert text.index("What was dropped?") < text.index("Rate offered") < text.index("Encoded moments")


@pytest.mark.parametrize("count", [1, 40])
def test_interval_of_a_latency_stands_in_brackets_where_there_is_one(count):
    text = Page(render(benchmarked(search(trial(10, latency_ms=(5.0, 9.0) * count), peak_hz=10.0)))).text
    assert ("median (5.0 to 9.0), received to published" in text) == (count == 40)
    assert ("in brackets: the 95 % interval" in text) == (count == 40)


def test_run_that_is_no_result_says_so_before_anything_else():
    late = benchmarked(Benchmark("fixed", {}, (trial(40, held=False, passed=False),)))
    page = Page(render(late))
    assert page.text.index("This is no result.The player could not hold 40 Hz") < page.text.index("How fast?")
    assert page.open == []
    assert "This is no result" not in render(benchmarked(PEAK))


def test_curves_need_several_rates_and_leave_out_no_trial():
    page = render(benchmarked(PEAK))
    assert ">dropped<" in page
    assert "images offered per second and topic" in page
    assert Page(page).text.count("0.8 ms") >= 3, "a row for each trial, with the player's lateness"
    one = render(benchmarked(Benchmark("fixed", {}, (trial(10),))))
    assert "One rate was played" in one


def test_table_and_curve_have_the_latency_by_which_a_trial_passes():
    slow = trial(20, latency_ms=(36.0,) * 20, end_to_end_ms=(117.0,) * 20)
    page = render(benchmarked(search(trial(10), slow, peak_hz=10.0)))
    assert Page(page).text.count("117.0 ms") == 2, "the median and the 99th percentile"
    assert ">sent to received, ms<" in page
    assert "36.0 ms" not in page


def test_figures_that_are_missing_say_why():
    text = Page(render(benchmarked(search(trial(10), peak_hz=10.0)))).text
    assert "energy–no energy meter (RAPL, Jetson's INA) could be read" in text
    assert "configure, cold2.5 s" in text
    assert "1 MBgrowth a minute" in text


def test_csv_files_have_a_row_for_each_embedding_and_each_trial(tmp_path):
    shown = recording(MIXED)
    shown.benchmark = PEAK
    files = save_report(shown, tmp_path)
    assert [file.name for file in files] == ["report.html", "summary.json", "embeddings.csv", "trials.csv"]
    with files[2].open(newline="") as embeddings, files[3].open(newline="") as trials:
        rows, lines = list(csv.DictReader(embeddings)), list(csv.DictReader(trials))
    assert [int(row["stamp_ns"]) for row in rows] == [row.stamp_ns for row in MIXED]
    summary = json.loads(files[1].read_text())
    assert [float(line["offered_hz"]) for line in lines] == [10.0, 40.0, 20.0]
    assert float(lines[2]["latency_ms.p50"]) == summary["latency_ms"]["p50"]
    assert float(lines[2]["latency_interval_ms.p50.low"]) == summary["latency_interval_ms"]["p50"][0]
    assert [file.name for file in save_report(recording(MIXED), tmp_path / "in process")][-1] == "embeddings.csv"
