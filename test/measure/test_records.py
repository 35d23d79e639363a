"""What stands at the head of every record."""

import json
import sys

import pytest

from saccade_ros import __version__
from saccade_ros.measure.records import command_line, record_head, save_record
from saccade_ros.storage import StorageError


def test_head_names_weights_machine_command_date_and_version():
    head = record_head("RANDOM weights, size tiny, seed 0", "0123")
    assert set(head) == {"weights", "weights_sha256", "command", "date", "package_version", "machine"}
    assert (head["weights_sha256"], head["package_version"]) == ("0123", __version__)
    assert "cores" in head["machine"]


@pytest.mark.parametrize(
    ("arguments", "typed"),
    [
        (["/usr/bin/saccade", "bench", "gate"], "saccade bench gate"),
        (["/x/saccade_ros/cli.py", "replay", "my clip.mp4"], "saccade replay 'my clip.mp4'"),
        (["study.py", "--set", "gate.tau=1"], "study.py --set gate.tau=1"),
    ],
)
def test_command_is_as_the_user_typed_it(monkeypatch, arguments, typed):
    monkeypatch.setattr(sys, "argv", arguments)
    assert command_line() == typed


def test_record_is_strict_json(tmp_path):
    file = save_record({"bench": "step", "step_ms": None}, tmp_path / "deep" / "step.json")
    assert json.loads(file.read_text()) == {"bench": "step", "step_ms": None}
    with pytest.raises(StorageError, match=r"nan\.json is not written"):
        save_record({"step_ms": float("nan")}, tmp_path / "nan.json")
    assert not (tmp_path / "nan.json").exists()
