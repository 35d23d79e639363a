"""The benchmark of the step: other runtimes take turns with torch, and are judged by it."""

import json

import pytest
from rich.console import Console

from saccade_ros.knobs import ConfigError
from saccade_ros.measure.machine import instruction_sets
from saccade_ros.measure.progress import silent
from saccade_ros.studies.step import Options, run, table


def test_runtimes_and_exports_are_measured_beside_torch(exported):
    for package in ("onnx", "openvino"):
        pytest.importorskip(package, reason=f"needs {package}; `make test` brings it")
    others = {"runtimes": ("onnxruntime", "openvino"), "exports": (exported,)}
    options = Options("tiny", windows=(2,), precisions=("fp32", "bf16"), rounds=1, threads=1, **others)
    record = run(options, silent)
    json.dumps(record, allow_nan=False)
    (part,) = record["windows"]
    found = {(row["runtime"], row["precision"]): row for row in part["runtimes"] if "failure" not in row}
    failed = {(row["runtime"], row["precision"]): row["failure"] for row in part["runtimes"] if "failure" in row}
    assert [(row["runtime"], row["precision"]) for row in part["runtimes"]].count(("onnxruntime", "fp32")) == 2
    for runtime in others["runtimes"]:
        row = found[runtime, "fp32"]
        assert row["largest_error"] <= 1e-4
        assert row["centred_cosine"]["tubelets"] == 8
        assert row["speedup"]["fp32"] == pytest.approx(part["reencode_ms"]["fp32"]["median"] / row["step_ms"]["median"])
    if not {"bf16", "AMX bf16"} & set(instruction_sets()):
        assert "which this processor does not have" in failed["openvino", "bf16"]
    console = Console(width=140, record=True)
    console.print(table(record))
    assert "onnxruntime fp32" in console.export_text()


def test_other_runtimes_are_measured_on_the_cpu_only():
    with pytest.raises(ConfigError, match="on the CPU"):
        Options(device="cuda", runtimes=("onnxruntime",))
