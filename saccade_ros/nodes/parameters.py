"""ROS parameters straight from the config dataclasses: names, types, defaults, descriptions, ranges, read-only."""

from dataclasses import Field, fields
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from saccade_ros.config import Config, ConfigError, GateConfig, Knob, knob_of


def declare_parameters(node: Node) -> None:
    """Declare every setting as `section.name`.

    Raises:
        ConfigError: a value given at start has the wrong type or is out of range.
    """
    for section in fields(Config):
        for setting in fields(section.default):  # type: ignore[arg-type]  # each section is a dataclass
            name = f"{section.name}.{setting.name}"
            try:
                node.declare_parameter(name, _ros_default(setting), _descriptor(setting))
            except Exception as refused:  # rclpy raises a different type for each way a value can be wrong
                raise ConfigError(
                    f"parameter {name}: {refused}. It takes a {type(setting.default).__name__} such as "
                    f"{setting.default!r}: {knob_of(setting).description}"
                ) from refused


def read_config(node: Node) -> Config:
    """The node's parameters as a Config.

    Raises:
        ConfigError: values that cannot work, alone or together.
    """
    sections: dict[str, Any] = {}
    for section in fields(Config):
        default: Any = section.default
        names = [setting.name for setting in fields(default)]
        values = {name: node.get_parameter(f"{section.name}.{name}").value for name in names}
        sections[section.name] = type(default)(**values)
    return Config(**sections)


def changed_gate(node: Node, parameters: list[Parameter]) -> GateConfig:
    """The gate's settings once these parameters are set.

    Raises:
        ConfigError: one of them cannot work.
    """
    changes = {p.name: p.value for p in parameters}
    names = {setting.name: f"{GateConfig.prefix}.{setting.name}" for setting in fields(GateConfig)}
    present = {key: node.get_parameter(name).value for key, name in names.items()}
    return GateConfig(**{key: changes.get(name, present[key]) for key, name in names.items()})


def refuse_bad_gate(node: Node, parameters: list[Parameter]) -> SetParametersResult:
    """Parameter callback: is this change possible?"""
    try:
        changed_gate(node, parameters)
    except ConfigError as refused:
        return SetParametersResult(successful=False, reason=str(refused))
    return SetParametersResult(successful=True)


def _ros_default(setting: "Field[Any]") -> Any:
    return list(setting.default) if isinstance(setting.default, tuple) else setting.default


def _descriptor(setting: "Field[Any]") -> ParameterDescriptor:
    about = knob_of(setting)
    descriptor = ParameterDescriptor(description=about.description, read_only=not about.live)
    if about.choices:
        descriptor.additional_constraints = "one of: " + ", ".join(about.choices)
    if isinstance(setting.default, float):
        descriptor.floating_point_range = _range(FloatingPointRange, about, float, 1e300)
    elif isinstance(setting.default, int) and not isinstance(setting.default, bool):
        descriptor.integer_range = _range(IntegerRange, about, int, 2**62)
    return descriptor


def _range(kind: Any, about: Knob, number: type, unbounded: float) -> list[Any]:
    if about.at_least is None and about.at_most is None:
        return []
    low = -unbounded if about.at_least is None else about.at_least
    high = unbounded if about.at_most is None else about.at_most
    return [kind(from_value=number(low), to_value=number(high))]
