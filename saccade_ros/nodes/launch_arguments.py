"""Launch arguments derived from the knobs: names, defaults and descriptions, and the parameters that they give.

Imports nothing of ROS, so that it can be tested anywhere.
"""

from collections.abc import Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, NamedTuple

from saccade_ros.config import Config
from saccade_ros.export.options import ExportOptions
from saccade_ros.knobs import Setting, settings_of


class Argument(NamedTuple):
    """One launch argument; without a default it must be given."""

    name: str
    default: str | None
    description: str


# Arguments of encoder.launch.py that set a parameter of the encoder node; empty leaves it as in params_file.
ENCODER_ARGUMENTS = {
    "topics": "node.topics",
    "model": "encoder.model",
    "backend": "backend.name",
    "device": "backend.device",
}


def encoder_arguments() -> list[Argument]:
    """Return the arguments of encoder.launch.py that set a parameter."""
    settings = {setting.name: setting for setting in settings_of(Config)}
    chosen = ((name, settings[parameter]) for name, parameter in ENCODER_ARGUMENTS.items())
    return [Argument(name, "", f"{_description(setting)} Empty: as in params_file.") for name, setting in chosen]


def encoder_parameters(given: Mapping[str, str]) -> dict[str, Any]:
    """Return the parameters that the texts given for ENCODER_ARGUMENTS set."""
    texts = {parameter: given[name] for name, parameter in ENCODER_ARGUMENTS.items()}
    return _values(Config, {name: text for name, text in texts.items() if text.strip()})


def export_arguments() -> list[Argument]:
    """Return the arguments of export.launch.py that set a parameter: every option of an export."""
    return [Argument(s.name, _default(s), _description(s)) for s in settings_of(ExportOptions)]


def export_parameters(given: Mapping[str, str]) -> dict[str, Any]:
    """Return the parameters that the texts given for export_arguments set."""
    return _values(ExportOptions, given)


def is_true(text: str) -> bool:
    """Return whether an argument's text means true."""
    return text.strip().lower() in ("true", "1")


def _values(kind: type, texts: Mapping[str, str]) -> dict[str, Any]:
    return {s.name: _value(s, texts[s.name]) for s in settings_of(kind) if s.name in texts}


def _value(setting: Setting, text: str) -> Any:
    """Convert an argument's text to a value that ROS parameters have."""
    if setting.is_list:
        return [part.strip() for part in text.split(",") if part.strip()]
    if setting.type is bool:
        return is_true(text)
    return text.strip() if setting.type in (str, Path) else setting.type(text)


def _default(setting: Setting) -> str | None:
    if setting.default is MISSING:
        return None
    if setting.type is bool:
        return str(setting.default).lower()
    return ",".join(setting.default) if setting.is_list else str(setting.default)


def _description(setting: Setting) -> str:
    return f"{setting.text} Separated by commas." if setting.is_list else setting.text
