"""Comparing replays: what may be compared, what chance explains, and when a limit is broken."""

import functools
import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from trials import benchmarked, search, trial

from saccade_ros.cli import main
from saccade_ros.knobs import ConfigError
from saccade_ros.measure.progress import silent
from saccade_ros.replay.compare import Options, run, table
from saccade_ros.replay.limits import FIGURES, read_limit
from saccade_ros.replay.record import make_record
from saccade_ros.replay.sides import CompareError
from saccade_ros.replay.trial import Benchmark


@functools.cache
def search_of(scale: float, peak_hz: float) -> dict:
    trials = trial(peak_hz, frames=2000, scale=scale), trial(1.04 * peak_hz, passed=False)
    return make_record(benchmarked(search(*trials, peak_hz=peak_hz)))


def record_of(scale: float = 1.0, peak_hz: float = 20.0, **changed) -> dict:
    """Record of a search for the peak; latencies times `scale`."""
    return {**search_of(scale, peak_hz), **changed}


@pytest.fixture
def files(tmp_path):
    """Writes records as files and names them, separated by commas."""

    def write(*records: dict) -> str:
        names = []
        for record in records:
            names.append(str(tmp_path / f"{len(list(tmp_path.iterdir()))}.json"))
            Path(names[-1]).write_text(json.dumps(record), encoding="utf-8")
        return ",".join(names)

    return write


def compared(before: str, after: str, *limits: str, across: tuple[str, ...] = ()) -> dict:
    return run(Options(before, after, limits, across), silent)


@pytest.mark.parametrize(
    ("scale", "limit", "broken"),
    [
        (1.5, "p50:+10%", True),
        (1.105, "p50:+10%", False),  # beyond the limit, but not beyond chance
        (1.0, "p50:+10%", False),
        (0.5, "p50:+10%", False),
        (0.5, "p50:-10%", True),
        (1.5, "p50:+5", True),
        (1.5, "p50:+20", False),
    ],
)
def test_limit_is_broken_when_the_whole_interval_lies_beyond_it(files, scale, limit, broken):
    record = compared(files(record_of()), files(record_of(scale)), limit)
    assert record["broken"] == [limit] * broken


def test_the_same_again_changes_nothing_and_keeps_every_limit(files):
    record = compared(files(record_of()), files(record_of()), "p99:+0%", "peak:-0%")
    assert record["answer"] == "B keeps all 2 limits; from A to B changed: nothing beyond chance"


def test_peak_has_the_interval_of_its_search(files):
    """It lies between the last rate that passed and the first that failed, 4 % apart."""
    assert compared(files(record_of()), files(record_of(peak_hz=19.5)), "peak:-1%")["broken"] == []
    assert compared(files(record_of()), files(record_of(peak_hz=16.0)), "peak:-5%")["broken"] == ["peak:-5%"]


def test_several_runs_are_judged_by_how_much_they_differ_among_themselves(files):
    """One run calls 10 % certain; runs that differ by 30 % among themselves do not."""
    steady = [files(*(record_of(scale) for scale in side)) for side in ((1.0, 1.01, 0.99), (1.2, 1.21, 1.19))]
    unsteady = [files(*(record_of(scale) for scale in side)) for side in ((0.8, 1.3, 0.9), (1.0, 1.4, 1.2))]
    assert compared(*steady, "p50:+10%")["broken"] == ["p50:+10%"]
    assert compared(*unsteady, "p50:+10%")["broken"] == []


def test_welch_interval_by_hand(files):
    """Means 1 apart, both variances 1/3000^2.. of two runs: t of 2 degrees of freedom."""
    sides = [[record_of(age_s=age) for age in ages] for ages in ((1.0, 2.0), (3.0, 4.0))]
    found = {row["name"]: row for row in compared(*(files(*side) for side in sides))["figures"]}
    half = 4.303 * (0.5 / 2 + 0.5 / 2) ** 0.5
    assert found["age"]["interval"] == pytest.approx([2.0 - half, 2.0 + half])


def test_figure_without_interval_in_one_run_is_not_judged(files):
    with pytest.raises(CompareError, match=r"one run has no interval for cpu.*several runs of each side"):
        compared(files(record_of()), files(record_of(cpu_cores=2.0)), "cpu:+10%")


def test_replays_in_process_are_exact(files):
    """The same recording gives the same bytes, so there is no chance in what was computed."""
    sides = [files(record_of(mode="offline", computed_share=share)) for share in (0.5, 0.6)]
    assert compared(*sides, "tokens:+10%")["broken"] == ["tokens:+10%"]
    online = [files(record_of(computed_share=share)) for share in (0.5, 0.6)]
    with pytest.raises(CompareError, match="one run has no interval"):
        compared(*online, "tokens:+10%")


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"machine": "another chip"}, "machine"),
        ({"weights_sha256": "0" * 64}, "model"),
        ({"recording_sha256": "0" * 64}, "recording"),
        ({"parameters": {"gate.tau": 0.1}}, "settings"),
        ({"mode": "recorded"}, "settings"),
        ({"player": {"tolerance": 0.5}}, "settings"),
    ],
)
def test_sides_that_differ_are_refused_unless_told(files, changed, kind):
    before, after = files(record_of()), files(record_of(**changed))
    with pytest.raises(CompareError, match=rf"differ in {kind} \(.+--across {kind}"):
        compared(before, after)
    assert compared(before, after, across=(kind,))["across"] == [kind]


def test_another_version_of_the_package_is_what_one_compares(files):
    assert compared(files(record_of()), files(record_of(package_version="9.9", command="another")))


def test_a_side_of_differing_runs_is_refused(files):
    with pytest.raises(CompareError, match="differ in machine"):
        compared(files(record_of(), record_of(machine="another")), files(record_of()))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("not json", "cannot be read"),
        ("[]", "no record of a replay"),
        ('{"format": "saccade replay", "version": 99}', "in version 1: make it again"),
        (
            json.dumps(make_record(benchmarked(Benchmark("fixed", {}, (trial(10, held=False),))))),
            "is no result: The player could not",
        ),
    ],
)
def test_what_is_no_result_is_not_compared(tmp_path, text, why):
    file = tmp_path / "summary.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(CompareError, match=why):
        compared(str(file), str(file))
    with pytest.raises(CompareError, match="cannot be read"):
        compared(str(tmp_path / "absent.json"), str(file))


def test_side_may_be_folders_a_pattern_or_a_list(tmp_path):
    for name in ("a1", "a2", "b1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(json.dumps(record_of()), encoding="utf-8")
    two = compared(f"{tmp_path}/a*/summary.json", f"{tmp_path}/a1,{tmp_path}/b1")
    assert two["runs"] == [2, 2]
    with pytest.raises(CompareError, match="pattern of no file"):
        compared(f"{tmp_path}/c*", str(tmp_path / "b1"))


def test_runs_that_do_not_alternate_are_told_of(files):
    at = [f"2026-11-26T10:0{minute}:00Z" for minute in range(4)]
    alternated = [files(*(record_of(started=at[i]) for i in side)) for side in ((0, 3), (1, 2))]
    apart = [files(*(record_of(started=at[i]) for i in side)) for side in ((0, 1), (2, 3))]
    assert [compared(*sides)["alternated"] for sides in (alternated, apart)] == [True, False]


@pytest.mark.parametrize("text", ["p99", "p99:10%", "p99:+", "speed:+1%", "p99:+1%%", "p99:+nan", "", "p99=+1%"])
def test_limit_that_cannot_be_read_is_refused_with_the_remedy(text):
    with pytest.raises(ConfigError, match="fail_on is"):
        read_limit(text)


def test_every_figure_is_in_a_record():
    """Or a limit on it could never be judged."""
    record = record_of()
    for figure in FIGURES.values():
        value = record
        for name in figure.path[:-1]:
            value = value[name]
        assert figure.path[-1] in value, figure.path


def test_command_prints_the_answer_first_and_exits_with_1_if_a_limit_is_broken(files, capsys):
    before, after = files(record_of()), files(record_of(1.5))
    assert main(["compare", before, after, "--fail-on", "p50:+10%"]) == 1
    assert capsys.readouterr().out.startswith("B breaks 1 of 1 limits: p50:+10% (+50.0%)")
    assert main(["compare", before, after, "--fail-on", "p50:+90%", "max:+90%"]) == 1, "max has no interval"
    assert main(["compare", before, after, "--fail-on", "p50:+90%", "--fail-on", "peak:-5%"]) == 0
    assert main(["compare", before, after]) == 0


def test_table_tells_what_was_compared_across(files):
    out = io.StringIO()
    sides = files(record_of()), files(record_of(machine="another"))
    Console(file=out, width=120).print(table(compared(*sides, across=("machine",))))
    assert "measured across: machine" in out.getvalue()
    assert "one side ran before the other" in out.getvalue()
