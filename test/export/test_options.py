"""Options of an export: one declaration for command, node, goal and launch file."""

import re
from pathlib import Path

from saccade_ros.export.options import ExportOptions
from saccade_ros.knobs import settings_of
from saccade_ros.runtimes import EXPORT_PRECISIONS

ACTION = Path(__file__).parents[2] / "action" / "ExportModel.action"
ROS_TYPES = {str: "string", Path: "string", int: "uint32", bool: "bool"}


def test_every_field_of_a_goal_is_an_option_of_its_type():
    goal = ACTION.read_text(encoding="utf-8").partition("\n---\n")[0]
    declared = {name: ros_type for ros_type, name in re.findall(r"^([\w\[\]]+) (\w+)", goal, re.MULTILINE)}
    options = {s.name: ROS_TYPES.get(s.item_type, "none") + "[]" * s.is_list for s in settings_of(ExportOptions)}
    assert declared
    assert declared.items() <= options.items()


def test_pairs_are_what_is_wanted_and_exists():
    every = tuple(dict.fromkeys(p for precisions in EXPORT_PRECISIONS.values() for p in precisions))
    options = ExportOptions("tiny", Path("x"), "clip.mp4", formats=tuple(EXPORT_PRECISIONS), precisions=every)
    pairs = {form: tuple(p for f, p in options.pairs() if f == form) for form in EXPORT_PRECISIONS}
    assert {form: set(pairs[form]) for form in pairs} == {f: set(p) for f, p in EXPORT_PRECISIONS.items()}
