"""Settings in ROS parameter files, such as config/encoder.yaml, and overrides of them on a command line."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saccade_ros.config import Config, ConfigError
from saccade_ros.knobs import SHOWN, Setting, build, settings_of, shown

MAX_BYTES = 1 << 20
MAX_DEPTH = 20


def load_config(
    params_file: str | Path | None = None, overrides: Mapping[str, str] | None = None, base: Config | None = None
) -> Config:
    """Read a Config from a ROS parameter file, such as config/encoder.yaml, and from overrides.

    Node names in the file are not matched: every `ros__parameters` block applies, later ones winning.

    Args:
        overrides: text by `section.name`, read by read_override; they win over the file.
        base: settings that neither names; None takes the defaults.

    Raises:
        ConfigError: the file cannot be read, or names or holds something that is no setting.
    """
    values: dict[str, Any] = {}
    if params_file is not None:
        document = _read_yaml(_read_text(Path(os.path.expanduser(params_file))), f"params file {params_file}")
        for block in _parameter_blocks(document, params_file):
            values.update(_flatten(block))
    settings = {setting.name: setting for setting in settings_of(Config)}
    values |= {name: read_override(name, text, settings.get(name)) for name, text in (overrides or {}).items()}
    return build(Config, {name: value for name, value in values.items() if not name.startswith(_OF_RCLPY)}, base)


_OF_RCLPY = ("qos_overrides.", "use_sim_time")  # its own parameters, of no use without ROS


def read_override(name: str, text: str, setting: Setting | None) -> Any:
    """Read the value of one override: as it is for a text or a path, unless in quotes; as YAML for anything else.

    Raises:
        ConfigError: it is no YAML.
    """
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if setting is not None and setting.type in (str, Path) and not is_quoted:
        return text
    return _read_yaml(text, f"{name}={shown(text)}")


def params_file_text(sections: Mapping[str, Mapping[str, Any]], head: str) -> str:
    """Write sections of settings as the text of a ROS parameter file.

    All of it is in braces, comments too: cut anywhere it loads nowhere, instead of with a part of its values.

    Args:
        head: what the file is, for people, in lines.
    """
    import yaml

    lines = ["/**: {ros__parameters: {", *(f"  # {line}".rstrip() for line in head.splitlines())]
    for section, values in sections.items():
        pairs = ({name: value} for name, value in values.items())
        written = (yaml.safe_dump(pair, default_flow_style=True, width=math.inf) for pair in pairs)
        lines += [f"  {section}: {{", *(f"    {item.strip()[1:-1]}," for item in written), "  },"]
    return "\n".join([*lines, "}}\n"])


def _read_text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"params file {file}: is longer than {MAX_BYTES} bytes: is it a parameter file?")
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as broken:
        raise ConfigError(f"params file {file}: cannot be read ({broken})") from broken


def _read_yaml(text: str, what: str) -> Any:
    """Parse YAML as ROS does, without aliases, and not deep; PyYAML follows both until memory or stack are used up."""
    import yaml

    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ConfigError(
                    f"{what}: has the alias *{str(event.anchor)[:SHOWN]}, which ROS refuses: write it out"
                )
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ConfigError(f"{what}: is nested more than {MAX_DEPTH} deep: parameters need three levels")
        return yaml.safe_load(text)
    except ConfigError:
        raise
    except (ValueError, yaml.YAMLError) as broken:
        reason = " ".join(str(broken).split())
        raise ConfigError(f"{what}: is no YAML ({reason}); put text with special characters in quotes") from broken


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
