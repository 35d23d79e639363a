"""Settings read from a ROS parameter file, such as config/encoder.yaml, and from overrides on a command line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saccade_ros.config import Config, ConfigError
from saccade_ros.knobs import build


def load_config(
    params_file: str | Path | None = None, overrides: Mapping[str, str] | None = None, base: Config | None = None
) -> Config:
    """Read a Config from a ROS parameter file, such as config/encoder.yaml, and from overrides.

    Node names in the file are not matched: every `ros__parameters` block applies, later ones winning.

    Args:
        overrides: YAML text by `section.name`; they win over the file.
        base: settings that neither names; None takes the defaults.

    Raises:
        ConfigError: the file cannot be read, or names or holds something that is no setting.
    """
    import yaml

    values: dict[str, Any] = {}
    if params_file is not None:
        try:
            document = yaml.safe_load(Path(params_file).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as broken:
            raise ConfigError(f"params file {params_file}: cannot be read ({broken})") from broken
        for block in _parameter_blocks(document, params_file):
            values.update(_flatten(block))
    for name, text in (overrides or {}).items():
        try:
            values[name] = yaml.safe_load(text)
        except (ValueError, yaml.YAMLError) as broken:
            reason = " ".join(str(broken).split())
            raise ConfigError(
                f"{name}={text}: is no YAML ({reason}); put text with special characters in quotes"
            ) from broken
    return build(Config, {name: value for name, value in values.items() if not name.startswith(_OF_RCLPY)}, base)


_OF_RCLPY = ("qos_overrides.", "use_sim_time")  # its own parameters, of no use without ROS


def _parameter_blocks(document: object, file: str | Path) -> list[dict[str, Any]]:
    nodes = document.values() if isinstance(document, dict) else ()
    blocks = [node.get("ros__parameters") for node in nodes if isinstance(node, dict)]
    if not blocks or not all(isinstance(block, dict) for block in blocks):
        raise ConfigError(f"params file {file}: no ros__parameters under a node name; start it with /**:")
    return blocks  # type: ignore[return-value]  # all dicts, as just checked


def _flatten(block: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested parameters by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in block.items():
        flat.update(_flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat
