"""The study of an export: every artifact timed and compared, and another model's refused."""

import pytest
from rich.console import Console

from saccade_ros.export.graph import ExportError
from saccade_ros.measure.progress import silent
from saccade_ros.studies import export


def test_every_artifact_is_timed_against_torch_and_compared_on_each_clip(exported, clip):
    told: list[float] = []
    options = export.Options(exported, "tiny", threads=1, rounds=2, clips=(clip,))
    record = export.run(options, lambda what, fraction: told.append(fraction))
    assert set(record["step_ms"]) == {"torch fp32", "torch bf16", "torch int8", "onnxruntime fp32"}
    for name, ms in record["step_ms"].items():
        assert record["times_torch_fp32"][name] == pytest.approx(record["step_ms"]["torch fp32"] / ms, abs=0.01)
    parity = record["parity"][0]["onnxruntime fp32"]
    assert (parity["clip"], parity["tubelets"]) == ("clip.mp4", 6)
    assert parity["centred_cosine_worst"] >= 0.9999
    assert {"weights", "weights_sha256", "command", "date", "package_version", "machine"} <= set(record)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)
    console = Console(record=True, width=100)
    console.print(export.table(record))
    assert "onnxruntime fp32" in console.export_text()


def test_other_weights_than_the_exported_are_refused(exported):
    with pytest.raises(ExportError, match="give --model what it was exported from"):
        export.run(export.Options(exported, "vits", threads=1, rounds=1), silent)
