"""What the README, the docs and the message files say is what the code does, and what was measured."""

import importlib
import re
import shlex
from pathlib import Path

import generate
import pytest
import yaml
from figures import BLOCKS

from saccade_ros.cli import COMMANDS, _choose, _parser
from saccade_ros.config import Config
from saccade_ros.knobs import settings_of
from saccade_ros.vision.ledger import DROP_CAUSES
from saccade_ros.vision.malformed import CAUSES

ROOT = Path(__file__).parents[1]
PAGES = generate.pages_of(ROOT)


@pytest.mark.parametrize("file", generate.generated(), ids=lambda file: file.name)
def test_generated_text_is_up_to_date(file):
    assert file.read_text(encoding="utf-8") == generate.generated()[file], "run `make docs`"


def test_every_block_is_shown_somewhere():
    shown = {name for page in PAGES for name in re.findall(r"<!-- generated: ([\w-]+) -->", page.read_text("utf-8"))}
    assert shown == set(BLOCKS)


def test_block_fits_any_page(monkeypatch):
    monkeypatch.setitem(BLOCKS, "sample", lambda: "new\nlines")
    page = (
        "- list\n\n  <!-- generated: sample -->\nold\n  <!-- end -->\n\n"
        "Told: <!-- generated: sample -->old<!-- end -->.\n"
    )
    filled = (
        "- list\n\n  <!-- generated: sample -->\n  new\n  lines\n  <!-- end -->\n\n"
        "Told: <!-- generated: sample -->new\nlines<!-- end -->.\n"
    )
    assert generate.fill(page) == filled
    assert generate.fill(filled) == filled
    with pytest.raises(KeyError, match="absent"):
        generate.fill("<!-- generated: absent --><!-- end -->")


def test_parameter_file_holds_every_default_in_its_type():
    """ROS takes 4 for an integer and refuses it for a float."""
    sections = yaml.safe_load(generate.encoder_yaml())["/**"]["ros__parameters"]
    written = {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}
    expected = {s.name: list(s.default) if s.is_list else s.default for s in settings_of(Config)}
    assert written == expected
    assert {name: type(value) for name, value in written.items()} == {n: type(v) for n, v in expected.items()}


def test_every_malformed_cause_has_an_account():
    assert set(CAUSES) <= set(DROP_CAUSES)


@pytest.mark.parametrize("name", ["Embedding.msg", "EncoderInfo.msg", "NoveltyEvent.msg"])
def test_every_message_field_is_documented(name):
    lines = (ROOT / "msg" / name).read_text(encoding="utf-8").splitlines()
    declared = [line for line in lines if re.match(r"[\w/\[\]]+ \w+", line)]
    assert declared
    assert [line for line in declared if "#" not in line] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    places = [ROOT / target[1:] if target.startswith("/") else page.parent / target for target in targets]
    assert [place for place in places if not place.exists()] == []


def commands_of(page):
    """Commands that a page shows, in a block or within a line."""
    text = page.read_text(encoding="utf-8").replace("\\\n", "").replace("...", "")
    return sorted(set(re.findall(r"(?:^ *|`)saccade ([a-z][^`\n#]*)", text, re.MULTILINE)))


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "log.md"], ids=lambda page: page.name)
def test_commands_are_ones_that_there_are(page):
    for command in commands_of(page):
        name, arguments = _choose(shlex.split(command))
        if arguments:
            _parser(name, importlib.import_module(f"saccade_ros.{COMMANDS[name].module}")).parse_args(arguments)


def example_of(page):
    (python,) = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    return python


def test_readme_python_runs(capsys):
    """As written, but for the camera."""
    from scenes import frames_of, textured

    python = example_of("README.md")
    assert python.count("\n") <= 14, "a dozen lines"
    frames = frames_of([textured(), textured(seed=1)] * 20)
    names = {"my_camera": [(frame.stamp_ns, frame.image) for frame in frames]}
    exec(python, names)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("nan (192,)")
    assert lines[-1].startswith("40 ")


def test_python_of_a_classifier_runs(capsys, tmp_path, monkeypatch):
    """As written, with frames of ours, and the classifier's numbers."""
    import numpy as np
    from scenes import frames_of, textured, tiny_config

    monkeypatch.chdir(tmp_path)
    frames = list(frames_of([textured(), textured(seed=1)] * 20))
    names = {"config": tiny_config(), "frames": frames, "weight": np.eye(3, 192), "bias": np.zeros(3)}
    exec(example_of("docs/node.md"), names)
    named = capsys.readouterr().out.splitlines()
    assert len(named) == 20
    assert {line.split()[0] for line in named} <= {"reach", "grasp", "lift"}


def test_every_promise_of_reliability_names_tests_that_exist():
    """A name may be cut by three dots: test_services_answer_at_once_..."""
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8").partition("## What a hang is")[0]
    tests = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "test").rglob("test_*.py"))
    rows = [line for line in page.splitlines() if line.startswith("| ") and line != "| promise | test |"]
    named = {row: re.findall(r"test_\w+(?:\.py)?", row) for row in rows}
    assert all(named.values()), "each promise names its test"
    functions = {name for names in named.values() for name in names if not name.endswith(".py")}
    assert {name for name in functions if f"def {name}" not in tests} == set()
