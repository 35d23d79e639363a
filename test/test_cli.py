"""The `saccade` command, as a person types it."""

import importlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from clips import write_video

from saccade_ros.cli import COMMANDS, main
from saccade_ros.knobs import settings_of

DEMO = str(Path(__file__).parents[1] / "config" / "demo.yaml")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4")


def test_replay_reports_and_accounts_for_every_frame(clip, tmp_path, capsys):
    settings = ["--params", DEMO, "--set", "encoder.model=tiny", "--set", "gate.tau=0.15", "--set", "tokens.select=all"]
    assert main(["replay", str(clip), *settings, "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["frames_in"], summary["frames_used"], summary["frames_dropped"]) == (40, 40, {})
    assert (summary["tubelets"], summary["encoded"], summary["skipped"]) == (20, 4, 16)
    assert summary["balanced"]
    assert summary["weights"].startswith("RANDOM")
    page = (tmp_path / "report.html").read_text()
    assert "Random weights" in page
    assert page.count("data:image/jpeg;base64,") == 4
    assert str(tmp_path / "report.html") in capsys.readouterr().out.replace("\n", "")


def test_replay_samples_at_the_rate_asked_for(clip, tmp_path):
    main(["replay", str(clip), "--params", DEMO, "--set", "stream.fps=5", "--out", str(tmp_path)])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["frames_in"], summary["frames_used"], summary["frames_dropped"]) == (40, 8, {"rate": 32})


def test_replay_twice_gives_the_same_novelty(clip, tmp_path):
    from saccade_ros.params_file import load_config
    from saccade_ros.recordings import open_source
    from saccade_ros.replay.inprocess import replay

    runs = [replay(open_source(clip), load_config(DEMO), lambda *_: None) for _ in range(2)]
    first, second = ([(row.stamp_ns, row.encoded, repr(row.novelty)) for row in run.rows] for run in runs)
    assert first == second


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_its_options(name, capsys):
    module = importlib.import_module(f"saccade_ros.{COMMANDS[name].module}")
    assert callable(module.run)
    assert callable(module.table)
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for setting in settings_of(module.Options):
        option = setting.name.rpartition(".")[2].replace("_", "-")
        assert setting.knob.positional or setting.name.startswith("config.") or f"--{option}" in printed


def test_help_lists_the_commands_and_imports_no_package():
    code = (
        "import sys; from saccade_ros.cli import main\n"
        "try: main(['--help'])\n"
        "finally: print(sorted({m.split('.')[0] for m in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    for package in ("torch", "numpy", "matplotlib", "rich", "yaml", "onnxruntime"):
        assert f"'{package}'" not in done.stderr


@pytest.mark.parametrize("words", [[], ["bench"], ["bench", "speed"], ["reply", "clip.mp4"]])
def test_what_is_no_command_is_refused_with_those_there_are(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "give one of replay, compare, calibrate, bench card, bench step" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("onnx", "export --model tiny --out x --calibration x.mp4"),
        ("torch", "bench step --model tiny"),
        ("matplotlib", "evaluate fidelity x.mp4"),
    ],
)
def test_command_whose_package_is_not_installed_says_so(package, command):
    """In an interpreter of its own, that cannot find it."""
    code = (
        "import sys, importlib.abc\n"
        "class Absent(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == sys.argv[1]: raise ModuleNotFoundError(f'No module named {name}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from saccade_ros.cli import main\n"
        "sys.exit(main(sys.argv[2:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, package, *command.split()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == f"saccade: this needs {package}: `saccade doctor` says what to install\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["replay", "absent.mp4"], "absent.mp4 does not exist"),
        (["replay", "CLIP", "--set", "gate.tau"], "--set gate.tau: give NAME=VALUE"),
        (["replay", "CLIP", "--set", "gate.thau=1"], "gate.thau is no setting"),
        (["replay", "CLIP", "--set", "gate.tau=-1"], "gate.tau is -1.0: give at least 0"),
        (["replay", "CLIP", "--set", "encoder.model=nothing"], "is no folder, no .pt file, no hub id"),
        (["bench", "step", "--model", "tiny", "--windows", "99"], "window 99 is outside 1..32"),
    ],
)
def test_refusal_is_one_line_with_the_remedy(clip, arguments, said, capsys):
    arguments = [str(clip) if argument == "CLIP" else argument for argument in arguments]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["replay", "CLIP", "--out", "FILE/report"],
        ["calibrate", "CLIP", "--target-fidelity", "0.5", "--out", "FILE/calibrated.yaml"],
        ["evaluate", "fidelity", "CLIP", "--out", "FILE/fidelity"],
        ["evaluate", "gaze", "CLIP", "--out", "FILE/gaze"],
        ["train", "causal", "CLIP", "--out", "FILE/training"],
        ["bench", "gate", "--json", "FILE/gate.json"],
        ["bench", "gates", "CLIP", "--json", "FILE/gates.json"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_place_that_cannot_be_written_to_is_refused_before_the_work(clip, tmp_path, arguments, capsys, monkeypatch):
    (tmp_path / "file").touch()
    places = {"CLIP": str(clip)}
    arguments = [places.get(word, word.replace("FILE", str(tmp_path / "file"))) for word in arguments]
    name = " ".join(arguments[:2]) if " ".join(arguments[:2]) in COMMANDS else arguments[0]
    monkeypatch.setattr(f"saccade_ros.{COMMANDS[name].module}.run", lambda *_: pytest.fail("the work was begun"))
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "cannot be written: Not a directory; give a place that you may write to" in error
    assert error.count("\n") == 1


def test_terminal_without_the_characters_of_the_table_and_a_full_disk_behind_it_do_not_fail(clip, tmp_path):
    command = [sys.executable, "-m", "saccade_ros.cli", "replay", str(clip), "--params", DEMO]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*command, "--out", str(tmp_path / "out")],
            env={**os.environ, "PYTHONIOENCODING": "latin-1", "LC_ALL": "C"},
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "out" / "report.html").exists()


def test_home_is_found_in_every_path(clip, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "demo.yaml").write_text(Path(DEMO).read_text())
    assert main(["replay", "~/clip.mp4", "--params", "~/demo.yaml", "--out", "~/out"]) == 0
    assert (tmp_path / "out" / "report.html").exists()
    assert main(["bench", "gate", "--set", "encoder.model=tiny", "--rounds", "1", "--json", "~/gate.json"]) == 0
    assert (tmp_path / "gate.json").exists()


def test_bench_step_measures_every_combination_in_turns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    file = tmp_path / "deep" / "out.json"
    command = ["bench", "step", "--model", "tiny", "--windows", "2", "--recomputes", "1", "2", "--batches", "1", "2"]
    command += ["--precisions", "fp32", "bf16", "int8"]
    assert main([*command, "--threads", "1", "--rounds", "2", "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    (part,) = result["windows"]
    steps = {(row["precision"], row["recompute"], row["batch"]): row for row in part["steps"]}
    assert set(steps) == set(itertools.product(("fp32", "bf16", "int8"), (1, 2), (1, 2)))
    assert set(part["reencode_ms"]) == {"fp32", "bf16"}  # transformers has no int8
    for (precision, _, batch), row in steps.items():
        assert row["step_ms"]["runs"] == 20
        assert row["per_stream_ms"] == pytest.approx(row["step_ms"]["median"] / batch)
        for full, ratio in row["speedup"].items():
            assert ratio == pytest.approx(part["reencode_ms"][full]["median"] / row["per_stream_ms"])
        assert row["floor_ms"] > 0
        assert row["centred_cosine"]["worst"] == pytest.approx(1.0, abs=1e-6 if precision == "fp32" else 1e-2)
        assert row["centred_cosine"]["tubelets"] == 8
    printed = capsys.readouterr().out
    for words in (
        "window 2",
        "bf16, recompute 2, 2 streams",
        "re-encode of the window",
        "GFLOP/s",
        "RANDOM",
        "out.json",
    ):
        assert words in printed


def test_bench_step_reads_a_clip(tmp_path, clip):
    file = tmp_path / "out.json"
    command = ["bench", "step", "--model", "tiny", "--windows", "2", "--precisions", "fp32", "--rounds", "1"]
    assert main([*command, "--clip", str(clip), "--json", str(file)]) == 0
    assert json.loads(file.read_text())["clip"] == clip.name


def test_bench_step_takes_a_checkpoint_folder(tmp_path):
    from transformers import VJEPA2Config, VJEPA2Model

    config = VJEPA2Config(hidden_size=64, num_hidden_layers=1, num_attention_heads=1, crop_size=64)
    config.pred_hidden_size, config.pred_num_hidden_layers, config.pred_num_attention_heads = 16, 1, 1
    VJEPA2Model(config).save_pretrained(tmp_path / "small")
    file = tmp_path / "out.json"
    command = ["bench", "step", "--model", str(tmp_path / "small"), "--windows", "2", "--rounds", "1"]
    assert main([*command, "--json", str(file)]) == 0
    assert json.loads(file.read_text())["weights"] == f"checkpoint {tmp_path / 'small'}"


CALIBRATE = ["--set", "encoder.model=tiny", "--set", "encoder.window=2", "--set", "stream.fps=0"]
CALIBRATE += ["--set", "backend.threads=1"]


def test_calibration_is_a_params_file_that_loads_and_is_tied_to_its_encoder(clip, tmp_path, capsys):
    from saccade_ros.params_file import load_config
    from saccade_ros.pipeline import Pipeline

    out = tmp_path / "calibrated.yaml"
    promise = ["--target-fidelity", "0.5", "--alpha", "0.5"]  # of a dozen reused embeddings
    assert main(["calibrate", str(clip), *CALIBRATE, *promise, "--out", str(out)]) == 0
    result = json.loads(out.with_suffix(".json").read_text())
    config = load_config(out)
    assert config.gate.tau == pytest.approx(result["tau"])
    assert config.gate.calibrated_for == result["encoder_id"]
    assert config.tokens.select == result["config"]["tokens"]["select"] == "all", "the promise is the gate's alone"
    assert (config.encoder.model, config.stream.fps) == ("tiny", 0.0)
    assert result["chosen"]["tuning"]["risk"] <= 0.5
    assert set(result["curves"]) == {"predicted", "pixels", "previous", "even"}
    assert {"encode_rate", "shadow_evaluations"} <= set(result["shadow"])
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert f"gate.tau {result['tau']:.4f}" in capsys.readouterr().out
    Pipeline(config)
    with pytest.raises(ValueError, match="run `saccade calibrate` with this encoder"):
        Pipeline(load_config(out, {"encoder.seed": "1"}))


def test_promise_that_no_tau_keeps_is_refused_and_the_curve_is_there(clip, tmp_path, capsys, monkeypatch):
    import saccade_ros.studies.calibration as calibration

    monkeypatch.setattr(calibration, "TAUS", calibration.TAUS[-3:])  # none that is small
    out = tmp_path / "calibrated.yaml"
    target = ["--target-fidelity", "0.999999999"]
    noisy = write_video(tmp_path / "busy.mp4", frames=60, hold=2)
    assert main(["calibrate", str(noisy), *CALIBRATE, *target, "--out", str(out)]) == 1
    assert "lower --target-fidelity" in capsys.readouterr().err
    assert not out.exists()
    assert out.with_suffix(".png").exists()


def test_bench_gate_prints_the_share_of_the_step(tmp_path, capsys):
    file = tmp_path / "gate.json"
    assert main(["bench", "gate", "--set", "encoder.model=tiny", "--rounds", "3", "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    assert result["gate_fraction"] == pytest.approx(max(result["skip_ms"], result["open_ms"]) / result["step_ms"])
    assert "of the step" in capsys.readouterr().out


def test_bench_gates_makes_the_table_and_the_picture(clip, tmp_path, capsys, monkeypatch):
    import saccade_ros.studies.gates as compare

    scenes = [scene for scene in compare.generated_scenes() if scene.name in ("static", "cut")]
    monkeypatch.setattr(compare, "generated_scenes", lambda: scenes)
    file = tmp_path / "gates.json"
    command = ["bench", "gates", str(clip), "--set", "encoder.model=tiny", "--set", "encoder.window=2"]
    assert main([*command, "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    assert [row["name"] for row in result["rows"]] == ["static", "cut", "clip.mp4"]
    static, cut, _ = result["rows"]
    assert static["at_tau"]["beyond_refreshes"] <= 0.02
    assert cut["at_tau"]["latency_s"] == 0.0
    assert file.with_suffix(".png").stat().st_size > 10_000
    assert "| cut | predicted |" in capsys.readouterr().out
