"""Launch arguments derived from the knobs: names, defaults and descriptions, and the parameters that they give.

Imports nothing of ROS, so that it can be tested anywhere.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, NamedTuple

from saccade_ros.config import Config, ConfigError
from saccade_ros.export.options import ExportOptions
from saccade_ros.knobs import Setting, settings_of

LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")


class Argument(NamedTuple):
    """One launch argument; without a default it must be given."""

    name: str
    default: str | None
    description: str


# Arguments of encoder.launch.py that set a parameter of the encoder node; empty leaves it as in params_file.
ENCODER_ARGUMENTS = {
    "topics": "node.topics",
    "output_topic": "node.output_topic",
    "model": "encoder.model",
    "backend": "backend.name",
    "device": "backend.device",
    "precision": "backend.precision",
    "threads": "backend.threads",
}


def encoder_arguments() -> list[Argument]:
    """Return the arguments of encoder.launch.py that set a parameter."""
    settings = {setting.name: setting for setting in settings_of(Config)}
    chosen = ((name, settings[parameter]) for name, parameter in ENCODER_ARGUMENTS.items())
    return [Argument(name, "", f"{_description(setting)} Empty: as in params_file.") for name, setting in chosen]


def encoder_parameters(given: Mapping[str, str]) -> dict[str, Any]:
    """Return the parameters that the texts given for ENCODER_ARGUMENTS set.

    Raises:
        ConfigError: a text that cannot be, by the argument's name.
    """
    settings = {setting.name: setting for setting in settings_of(Config)}
    chosen = ((name, settings[parameter]) for name, parameter in ENCODER_ARGUMENTS.items() if given[name].strip())
    return {setting.name: _value(setting, name, given[name]) for name, setting in chosen}


def export_arguments() -> list[Argument]:
    """Return the arguments of export.launch.py that set a parameter: every option of an export."""
    return [Argument(s.name, _default(s), _description(s)) for s in settings_of(ExportOptions)]


def export_parameters(given: Mapping[str, str]) -> dict[str, Any]:
    """Return the parameters that the texts given for export_arguments set.

    Raises:
        ConfigError: a text that cannot be, by the argument's name.
    """
    return {s.name: _value(s, s.name, given[s.name]) for s in settings_of(ExportOptions) if s.name in given}


def read_bool(name: str, text: str) -> bool:
    """Read an argument that is true or false, as ROS writes the two.

    Raises:
        ConfigError: it is something else.
    """
    values = {"true": True, "1": True, "false": False, "0": False}
    if (word := text.strip().lower()) not in values:
        raise ConfigError(f"{name} is {text!r}: give true or false")
    return values[word]


def read_choice(name: str, text: str, choices: Iterable[str]) -> str:
    """Read an argument that is one of several words.

    Raises:
        ConfigError: it is something else.
    """
    if text.strip() not in choices:
        raise ConfigError(f"{name} is {text!r}: choose one of {', '.join(choices)}")
    return text.strip()


def read_file(name: str, text: str) -> str:
    """Read an argument that names a file.

    Raises:
        ConfigError: there is none that can be read.
    """
    file = Path(text.strip()).expanduser()
    try:
        file.open("rb").close()
    except OSError as broken:
        raise ConfigError(f"{name} is {text!r}, which cannot be read ({broken.strerror}): give a file") from broken
    return str(file)


def read_path(name: str, text: str) -> str:
    """Read an argument that names a file or folder.

    Raises:
        ConfigError: it names nothing that there is.
    """
    path = Path(text.strip()).expanduser()
    if not text.strip() or not path.exists():
        raise ConfigError(f"{name} is {text!r}, which does not exist: give a file or folder")
    return str(path)


def unknown_arguments(given: Iterable[str], known: Iterable[str]) -> list[str]:
    """Write a warning for each name given that is none of ours but like one; all others may be of somebody else's."""
    names = list(known)
    nearest = ((name, difflib.get_close_matches(name, names, 1, 0.75)) for name in given if name not in names)
    return [f"{name} is no argument of this launch file: is {near[0]} meant?" for name, near in nearest if near]


def _value(setting: Setting, name: str, text: str) -> Any:
    """Convert an argument's text to a value that ROS parameters have, and check it under the argument's name."""
    if setting.is_list:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        setting.knob.check(name, tuple(parts))
        return parts
    if setting.type is bool:
        return read_bool(name, text)
    value = text.strip() if setting.type in (str, Path) else _number(setting.type, name, text)
    setting.knob.check(name, value)
    return value


def _number(kind: type, name: str, text: str) -> Any:
    try:
        return kind(text)
    except ValueError as wrong:
        what = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{name} is {text!r}: give {what}") from wrong


def _default(setting: Setting) -> str | None:
    if setting.default is MISSING:
        return None
    if setting.type is bool:
        return str(setting.default).lower()
    return ",".join(setting.default) if setting.is_list else str(setting.default)


def _description(setting: Setting) -> str:
    return f"{setting.text} Separated by commas." if setting.is_list else setting.text
