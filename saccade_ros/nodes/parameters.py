"""ROS parameters derived from the knobs: names, types, defaults, descriptions, ranges, read-only."""

from dataclasses import MISSING
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from saccade_ros.config import Config, ConfigError, GateConfig, TokensConfig
from saccade_ros.knobs import Knob, Setting, Settings, build, explain_unknown, settings_of

Section = TypeVar("Section", bound=Settings)

LIVE_SECTIONS: tuple[type[Settings], ...] = (GateConfig, TokensConfig)  # with settings that may change at any time


def declare_parameters(node: Node, kind: type = Config, note: str = "") -> None:
    """Declare every knob of a dataclass under its name, such as gate.tau.

    Args:
        note: tells, in the description of those that are not live, when they can be set.

    Raises:
        ConfigError: a value given at start has the wrong type or is out of range.
    """
    for setting in settings_of(kind):
        default = _ros_value(setting.item_type() if setting.default is MISSING else setting.default)
        try:
            node.declare_parameter(setting.name, default, _descriptor(setting, "" if setting.knob.live else note))
        except Exception as refused:  # rclpy raises a different type for each way a value can be wrong
            raise ConfigError(
                f"parameter {setting.name}: {refused}. It takes a {type(default).__name__} such as {default!r}: "
                f"{setting.knob.description}"
            ) from refused


def read_values(node: Node, kind: type) -> dict[str, Any]:
    """Return the node's parameters by name, without those that have no default and no value yet."""
    values = {setting.name: node.get_parameter(setting.name).value for setting in settings_of(kind)}
    needed = {setting.name for setting in settings_of(kind) if setting.default is MISSING}
    return {name: value for name, value in values.items() if value or name not in needed}


def read_config(node: Node) -> Config:
    """Return the node's parameters as a Config.

    Raises:
        ConfigError: values that cannot work, alone or together.
    """
    return build(Config, read_values(node, Config))


def changed_section(node: Node, section: type[Section], parameters: list[Parameter]) -> Section:
    """Return one section's settings, such as GateConfig's, as they are once these parameters are set.

    Raises:
        ConfigError: one of them cannot work.
    """
    names = {setting.name: f"{section.prefix}.{setting.name}" for setting in settings_of(section)}
    values = {p.name: p.value for p in (*node.get_parameters(list(names.values())), *parameters)}  # later ones win
    return build(section, {key: values[name] for key, name in names.items()})


def refuse_unknown_parameters(node: Node) -> None:
    """Refuse a parameter, from a file or a command line, that is none of Config's but in one of its sections.

    Others may be another node's, as under `/**:`; one that looks like a slip is warned of.

    Raises:
        ConfigError: it names the parameter and the nearest one.
    """
    known = [setting.name for setting in settings_of(Config)]
    sections = {name.partition(".")[0] for name in known}
    for name in sorted(set(node._parameter_overrides) - set(known)):
        if name.partition(".")[0] in sections:
            raise ConfigError(explain_unknown(name, known))
        if get_close_matches(name, known, cutoff=0.8):
            node.get_logger().warning(explain_unknown(name, known))


def refuse_bad_values(node: Node, parameters: list[Parameter], live_only: bool) -> SetParametersResult:
    """Answer whether these parameters can be set; a parameter callback.

    Args:
        live_only: True refuses those that are not live.
    """
    settings = {setting.name: setting for setting in settings_of(Config)}
    try:
        for parameter in parameters:
            if (setting := settings.get(parameter.name)) is not None:
                _check_change(setting, parameter.value, live_only)
        for section in LIVE_SECTIONS:
            changed_section(node, section, parameters)
    except ConfigError as refused:
        return SetParametersResult(successful=False, reason=str(refused))
    return SetParametersResult(successful=True)


def _check_change(setting: Setting, value: Any, live_only: bool) -> None:
    if live_only and not setting.knob.live:
        raise ConfigError(
            f"{setting.name} is read at configure: deactivate and clean up the node, set it, and configure it again"
        )
    setting.knob.check(setting.name, tuple(value) if setting.is_list else value)


def _ros_value(value: Any) -> Any:
    """The value as a type that ROS parameters have."""
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _descriptor(setting: Setting, note: str) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=setting.knob.description)
    choices = "one of: " + ", ".join(setting.knob.choices) if setting.knob.choices else ""
    descriptor.additional_constraints = "; ".join(filter(None, (choices, note)))
    if setting.type is float:
        descriptor.floating_point_range = _range(FloatingPointRange, setting.knob, float, 1e300)
    elif setting.type is int:
        descriptor.integer_range = _range(IntegerRange, setting.knob, int, 2**62)
    return descriptor


def _range(kind: Any, knob: Knob, number: type, unbounded: float) -> list[Any]:
    if knob.at_least is None and knob.at_most is None:
        return []
    low = -unbounded if knob.at_least is None else knob.at_least
    high = unbounded if knob.at_most is None else knob.at_most
    return [kind(from_value=number(low), to_value=number(high))]
