"""The comparison of area attention with full attention: what must be true of its figures whatever the weights."""

import json

import pytest
from clips import write_video

from saccade_ros.cli import main
from saccade_ros.measure.progress import silent
from saccade_ros.studies.areas import Options, bound, judge, run, schedules


@pytest.fixture(scope="module")
def record() -> dict:
    return run(Options(model="tiny", window=2, tubelets=6, rounds=2, threads=1), silent)


def test_schedules_are_those_of_the_issue_scaled_to_the_depth():
    assert schedules(24) == [0, 12, 18, 20]
    assert schedules(8) == [0, 4, 6, 7]
    assert schedules(4) == [0, 2, 3], "each once"


def test_full_attention_agrees_with_itself_and_areas_depart_with_the_layers(record):
    full, *by_area = record["schedules"]
    assert full["token_cosine"] == pytest.approx(1, abs=1e-6)
    assert full["linear_cka"] == pytest.approx(1, abs=1e-6)
    assert full["centred_cosine"]["worst"] == full["speedup"] == full["bound"] == 1
    ckas = [full["linear_cka"], *(row["linear_cka"] for row in by_area)]
    assert ckas == sorted(ckas, reverse=True)
    assert all(row["token_cosine"] < 1 - 1e-6 for row in by_area)


def test_the_bound_is_amdahls_of_the_share_measured(record):
    share = record["attention_share"]
    assert 0 < share < 1
    assert record["tokens_per_area"] == [16, 16, 16, 16]
    assert [row["bound"] for row in record["schedules"]] == pytest.approx(
        [1 / (1 - share * layers / 4 * 0.75) for layers in (0, 2, 3)]
    )


def test_bound_of_all_layers_in_vanishing_areas_is_that_of_no_attention():
    assert bound(0.25, 1.0, 0.0) == pytest.approx(4 / 3)
    assert bound(0.25, 1.0, 0.25) == pytest.approx(1.23, abs=0.005)  # the design's figure for ViT-L
    assert bound(0.25, 0.0, 0.25) == 1


def test_the_verdict_says_what_cannot_pay():
    assert judge(6, 0.05, 1.2, 1.03).startswith("cannot pay: attention is 5% of the step, so at most 1.03x")
    assert judge(6, 0.3, 0.9, 1.2).startswith("does not pay here")
    assert judge(6, 0.3, 1.1, 1.2).startswith("pays 1.10x of at most 1.20x")


def test_command_saves_a_record_and_says_what_was_loaded_strictly(tmp_path, capsys):
    clip, file = write_video(tmp_path / "clip.avi", frames=40), tmp_path / "areas.json"
    options = ["--window", "2", "--tubelets", "4", "--rounds", "1", "--area-grid", "3x2"]
    assert main(["evaluate", "areas", "--clip", str(clip), *options, "--json", str(file)]) == 0
    said, record = capsys.readouterr().out, json.loads(file.read_text())
    assert "strict loading: yes, every tensor of" in said
    assert "the same weights in all schedules" in said
    assert record["loading"]["strict"]
    assert sum(record["tokens_per_area"]) == 64
    assert len(set(record["tokens_per_area"])) == 2
    assert [row["area_layers"] for row in record["schedules"]] == [0, 4, 6, 7]


def test_areas_that_the_model_cannot_have_are_refused(capsys):
    assert main(["evaluate", "areas", "--model", "tiny", "--area-grid", "9x9"]) == 1
    assert "give at most 8x8" in capsys.readouterr().err
