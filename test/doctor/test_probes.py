"""One screen, whatever is missing or broken."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import saccade_ros
from saccade_ros.cli import main
from saccade_ros.doctor import probes
from saccade_ros.doctor.findings import Finding

ROOT = Path(saccade_ros.__file__).parents[1]


def test_screen_names_everything_a_robot_may_lack(capsys):
    status = main(["doctor"])
    printed = capsys.readouterr().out
    for name in (
        "python",
        "processor",
        "kernels",
        "gpu",
        "ros",
        "rmw",
        "numpy",
        "cv_bridge",
        "torch",
        "onnxruntime",
        "tensorrt",
    ):
        assert name in printed
    assert status == 0
    assert "This machine can run the encoder." in printed
    assert printed.count("\n") < 45, "one screen"


def test_json_says_the_same(capsys):
    assert main(["doctor", "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["can_run"]
    states = {finding["name"]: finding["state"] for finding in document["findings"]}
    assert (states["torch"], states["onnxruntime"]) == ("ok", "ok")
    assert all(f["remedy"] for f in document["findings"] if f["state"] == "missing" and f["name"] not in ("gpu", "rmw"))


def doctor_with(stubs: Path) -> "tuple[int, dict]":
    """The command with these modules in front of the real ones."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(stubs), str(ROOT)])}
    command = [sys.executable, "-m", "saccade_ros.cli", "doctor", "--json", "-"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, {f["name"]: f for f in json.loads(done.stdout)["findings"]}


def test_broken_packages_are_told_from_missing_ones(tmp_path):
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open')")
    (tmp_path / "torch.py").write_text("import os; os.kill(os.getpid(), 11)")
    (tmp_path / "cv_bridge.py").write_text("raise AttributeError('_ARRAY_API not found')")
    status, found = doctor_with(tmp_path)
    assert status == 1
    assert found["opencv"]["state"] == "broken"
    assert "libGL.so.1" in found["opencv"]["detail"]
    assert "crashed its interpreter with signal 11" in found["torch"]["detail"]
    assert found["kernels"]["state"] == "broken", "torch's, so no better than torch"
    assert "_ARRAY_API" in found["cv_bridge"]["detail"]
    assert found["python"]["state"] == "ok"


def test_bare_interpreter_is_told_what_to_install():
    """No site-packages at all, so neither rich nor numpy nor any runtime."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from saccade_ros.cli import main; sys.exit(main(['doctor']))"
    )
    bare = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-S", "-c", code], env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "pip install numpy" in done.stdout
    assert "pip install saccade_ros[onnx]" in done.stdout
    assert "cannot run the encoder yet" in done.stdout


def test_probe_that_fails_is_a_line_of_its_own(monkeypatch):
    def failing() -> Finding:
        raise ZeroDivisionError("no reason")

    monkeypatch.setattr(probes, "_PROBES", (*probes._PROBES, failing))
    line = next(line for line in probes.examine().lines if line.name == "failing")
    assert (line.state, line.detail) == ("broken", "ZeroDivisionError: no reason")


def test_models_in_the_folder_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "vitl").mkdir(parents=True)
    (tmp_path / "models" / "vitl" / "config.json").write_text("{}")
    (tmp_path / "models" / "half").mkdir()
    (tmp_path / "models" / "half" / "manifest.json").write_text("{}")
    lines = {line.detail.partition(":")[0]: line.state for line in probes._models()}
    assert lines[f"checkpoint {Path('models/vitl')}"] == "ok"
    assert "broken" in lines.values()
    assert lines["default"] == "ok"


@pytest.mark.parametrize("module", ["doctor.probes", "backends.manifest", "backends.onnx_backend"])
def test_needs_no_torch(module):
    code = f"import sys; import saccade_ros.{module}; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
