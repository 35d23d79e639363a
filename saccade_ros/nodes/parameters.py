"""ROS parameters derived from the knobs: names, types, defaults, descriptions, ranges, read-only."""

from dataclasses import MISSING
from pathlib import Path
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from saccade_ros.config import Config, ConfigError, GateConfig, TokensConfig
from saccade_ros.knobs import Knob, Setting, Settings, build, settings_of

Section = TypeVar("Section", bound=Settings)

LIVE_SECTIONS: tuple[type[Settings], ...] = (GateConfig, TokensConfig)  # with settings that may change at any time


def declare_parameters(node: Node, kind: type = Config, read_only: bool = True) -> None:
    """Declare every knob of a dataclass under its name, such as gate.tau.

    Args:
        read_only: False lets all of them change at any time, not only those that are live.

    Raises:
        ConfigError: a value given at start has the wrong type or is out of range.
    """
    for setting in settings_of(kind):
        default = _ros_value(setting.item_type() if setting.default is MISSING else setting.default)
        try:
            node.declare_parameter(setting.name, default, _descriptor(setting, read_only and not setting.knob.live))
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


def refuse_bad_values(node: Node, parameters: list[Parameter]) -> SetParametersResult:
    """Answer whether these parameters can be set; a parameter callback."""
    try:
        for section in LIVE_SECTIONS:
            changed_section(node, section, parameters)
    except ConfigError as refused:
        return SetParametersResult(successful=False, reason=str(refused))
    return SetParametersResult(successful=True)


def _ros_value(value: Any) -> Any:
    """The value as a type that ROS parameters have."""
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _descriptor(setting: Setting, read_only: bool) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=setting.knob.description, read_only=read_only)
    if setting.knob.choices:
        descriptor.additional_constraints = "one of: " + ", ".join(setting.knob.choices)
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
