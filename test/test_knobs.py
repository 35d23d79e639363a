"""Knobs: declared once, converted, checked, listed and built by name."""

import math
from dataclasses import MISSING, dataclass
from pathlib import Path

import pytest

from saccade_ros.knobs import ConfigError, Settings, build, knob, required, same_as, settings_of


@dataclass(frozen=True)
class Oven(Settings):
    prefix = "oven"

    heat: float = knob(180.0, "Degrees Celsius.", at_least=20.0, at_most=300.0, live=True)
    fan: bool = knob(False, "True moves the air.")


@dataclass(frozen=True)
class Bakery(Settings):
    recipe: Path = required("File of the recipe.")
    names: tuple[str, ...] = knob(("rye",), "Kinds of bread.", choices=("rye", "spelt"))
    minutes: tuple[int, ...] = knob((30,), "Times to try.", at_least=1)
    note: Path | None = knob(None, "File for notes.")
    heat: float = same_as(Oven, "heat")
    oven: Oven = Oven()
    counted: int = 3  # no knob


def test_values_become_what_the_annotation_says():
    bakery = Bakery(recipe="r.txt", names=["spelt"], heat=200, note="n.txt")  # type: ignore[arg-type]
    assert (bakery.recipe, bakery.note) == (Path("r.txt"), Path("n.txt"))
    assert bakery.names == ("spelt",)
    assert type(bakery.heat) is float
    assert Bakery(Path("r.txt")).note is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"heat": 10.0}, "heat is 10.0: give at least 20"),
        ({"heat": math.inf}, "heat is inf: give a finite number"),
        ({"heat": True}, "heat is True (bool): give a value of type float, like 180.0"),
        ({"names": "rye"}, "names is 'rye' (str): give a value of type tuple, like ('rye',)"),
        ({"names": ("rye", "oat")}, "names is 'oat': choose one of rye, spelt"),
        ({"minutes": (5, "6")}, "minutes is '6' (str): give a value of type int"),
        ({"minutes": (5, 0)}, "minutes is 0: give at least 1"),
        ({"recipe": 5}, "recipe is 5 (int): give a value of type Path"),
        ({"oven.fan": 1}, "oven.fan is 1 (int): give a value of type bool, like False"),
        ({"oven.far": True}, "oven.far is no setting: did you mean oven.fan"),
        ({"counted": 4}, "counted is no setting"),
    ],
)
def test_impossible_value_is_refused_by_name(values, said):
    with pytest.raises(ConfigError) as refused:
        build(Bakery, {"recipe": "r.txt", **values})
    assert str(refused.value).startswith(said)


def test_setting_without_default_must_be_given():
    with pytest.raises(ConfigError, match=r"recipe is not given: File of the recipe\."):
        build(Bakery, {"heat": 200.0})


def test_built_by_dotted_names_over_a_base():
    base = build(Bakery, {"recipe": "r.txt", "oven.fan": True})
    assert base == Bakery(Path("r.txt"), oven=Oven(fan=True))
    changed = build(Bakery, {"oven.heat": 250, "heat": 100}, base)
    assert changed == Bakery(Path("r.txt"), heat=100.0, oven=Oven(250.0, fan=True))


def test_listed_with_names_types_and_defaults():
    listed = {setting.name: setting for setting in settings_of(Bakery)}
    assert list(listed) == ["recipe", "names", "minutes", "note", "heat", "oven.heat", "oven.fan"]
    assert listed["recipe"].default is MISSING
    assert [listed[name].item_type for name in ("recipe", "minutes", "note", "oven.fan")] == [Path, int, Path, bool]
    assert [name for name, setting in listed.items() if setting.is_list] == ["names", "minutes"]
    assert listed["heat"].knob is listed["oven.heat"].knob
