"""Options of a command are the knobs of its dataclass."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import pytest

from saccade_ros.cli_options import add_options, read_options
from saccade_ros.config import Config, ConfigError, EncoderConfig
from saccade_ros.knobs import Settings, knob, required


@dataclass(frozen=True)
class Oven(Settings):
    rank: int = knob(16, "Rank, at most 100 %.")


@dataclass(frozen=True)
class Options(Settings):
    clips: tuple[Path, ...] = required("Clips.", positional=True, metavar="CLIP")
    out: Path = required("Folder.", metavar="FOLDER")
    held_out: tuple[str, ...] = knob((), "Clips held out.")
    windows: tuple[int, ...] = knob((8, 16), "Windows.", at_least=1)
    precision: str = knob("fp32", "Precision.", choices=("fp32", "bf16"))
    rate: float = knob(0.5, "Rate.", at_most=1.0)
    seed: int = knob(0, "Seed.")
    force: bool = knob(False, "True forces.")
    oven: Oven = Oven()
    config: Config = Config(encoder=EncoderConfig(model="vits"))


@dataclass(frozen=True)
class Scenes(Settings):
    clips: tuple[Path, ...] = knob((), "Clips beside the scenes.", positional=True)
    params: Path | None = knob(None, "A knob of that name.")


def parse(kind, *arguments):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_options(parser, kind)
    return read_options(kind, vars(parser.parse_args(arguments)))


def test_what_is_not_given_is_the_default():
    assert parse(Options, "a.mp4", "--out", "x") == Options((Path("a.mp4"),), Path("x"))
    assert parse(Scenes) == Scenes()
    assert parse(Scenes, "--params", "a.yaml") == Scenes(params=Path("a.yaml"))


def test_what_is_given_arrives_in_its_type():
    words = "a.mp4 b.mp4 --out x --held-out c --held-out d e --windows 2 4 --precision bf16 --rate 1 --force --rank 3"
    options = parse(Options, *words.split())
    assert options.clips == (Path("a.mp4"), Path("b.mp4"))
    assert options.held_out == ("c", "d", "e")
    assert (options.windows, options.precision, options.rate) == ((2, 4), "bf16", 1.0)
    assert (options.force, options.oven.rank) == (True, 3)
    assert not parse(Options, "a", "--out", "x", "--no-force").force


def test_config_comes_from_file_and_overrides_over_the_field_s_default(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text("/**: {ros__parameters: {encoder: {window: 4}, gate: {tau: 0.4}}}")
    options = parse(Options, "a", "--out", "x", "--params", str(file), "--set", "gate.tau=0.1", "--set", "stream.fps=0")
    config = options.config
    assert (config.encoder.model, config.encoder.window, config.gate.tau, config.stream.fps) == ("vits", 4, 0.1, 0.0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--precision fp8", "precision is 'fp8': choose one of fp32, bf16"),
        ("--windows 2 0", "windows is 0: give at least 1"),
        ("--rate nan", "rate is nan: give a finite number"),
        ("--set gate.tau", "--set gate.tau: give NAME=VALUE"),
        ("--set gate.thau=1", "gate.thau is no setting"),
    ],
)
def test_value_that_cannot_work_is_refused_by_name(words, said):
    with pytest.raises(ConfigError, match=said):
        parse(Options, "a", "--out", "x", *words.split())


@pytest.mark.parametrize("words", ["a", "--out x", "a --out x --windows two", "a --out x --window 2"])
def test_wrong_usage_ends_with_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(Options, *words.split())
    assert ended.value.code == 2


def test_help_tells_meaning_choices_and_default(capsys):
    with pytest.raises(SystemExit):
        parse(Options, "--help")
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "--out FOLDER Folder.",
        "--windows WINDOWS [WINDOWS ...] Windows. (default: 8 16)",
        "--precision PRECISION Precision. One of fp32, bf16. (default: fp32)",
        "--seed SEED Seed. (default: 0)",
        "--rank RANK Rank, at most 100 %. (default: 16)",
        "--set NAME=VALUE",
    ):
        assert words in shown
