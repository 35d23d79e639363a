"""Options of a command, derived from a dataclass of knobs, and the dataclass made of what was given.

A knob `held_out: tuple[str, ...]` becomes `--held-out A B`, a bool `--force`, a positional knob an argument, and a
field of type Config the two options --params and --set over that field's default.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, replace
from typing import Any, TypeVar

from saccade_ros.config import Config, ConfigError
from saccade_ros.knobs import Setting, build, settings_of
from saccade_ros.params_file import load_config

Options = TypeVar("Options")


def add_options(parser: argparse.ArgumentParser, kind: type) -> None:
    """Add an option for each knob of a dataclass. What is not given is left out of the parsed namespace."""
    configs = [field.name for field in _configs(kind)]
    for setting in settings_of(kind):
        if setting.name.partition(".")[0] not in configs:
            _add_option(parser, setting)
    if configs:
        parser.add_argument(
            "--params", metavar="FILE", default=argparse.SUPPRESS, help="parameters, as in config/encoder.yaml"
        )
        parser.add_argument(
            "--set",
            metavar="NAME=VALUE",
            default=argparse.SUPPRESS,
            action="append",
            help="one parameter, e.g. --set gate.tau=0.3; wins over the file",
        )


def read_options(kind: type[Options], given: Mapping[str, Any]) -> Options:
    """Make the dataclass of a parsed namespace, as a mapping.

    Raises:
        ConfigError: a value cannot work.
    """
    values = dict(given)
    if not _configs(kind):
        return build(kind, values)
    file, overrides = values.pop("params", None), _overrides(values.pop("set", ()))
    options = build(kind, values)
    for field in _configs(kind):
        config = load_config(file, overrides, getattr(options, field.name))
        options = replace(options, **{field.name: config})  # type: ignore[type-var]  # a dataclass, as build made it
    return options


def _configs(kind: type) -> "list[Field[Any]]":
    return [field for field in fields(kind) if field.type is Config]


def _overrides(pairs: Sequence[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(f"--set {pair}: give NAME=VALUE, such as gate.tau=0.4")
    return dict(pair.split("=", 1) for pair in pairs)


def _add_option(parser: argparse.ArgumentParser, setting: Setting) -> None:
    knob, name = setting.knob, setting.name.rpartition(".")[2]
    needed = setting.default is MISSING
    arguments: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(setting)}
    if setting.type is bool:
        arguments["action"] = argparse.BooleanOptionalAction
    else:
        arguments |= {"type": setting.item_type, "metavar": knob.metavar or name.upper()}
    if setting.is_list:
        arguments |= {"action": "extend", "nargs": "+" if needed or not knob.positional else "*"}
    if knob.positional:
        parser.add_argument(setting.name, **arguments)
    else:
        parser.add_argument(f"--{name.replace('_', '-')}", dest=setting.name, required=needed, **arguments)


def _help(setting: Setting) -> str:
    default = setting.default
    if default is MISSING or default is None or default is False or default in ("", ()):
        text = setting.text
    else:
        shown = " ".join(str(item) for item in default) if setting.is_list else str(default)
        text = f"{setting.text} (default: {shown})"
    return text.replace("%", "%%")
