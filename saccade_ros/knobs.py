"""Knobs: settings declared once, as dataclass fields, for the Python API, ROS parameters, YAML and command lines.

@dataclass(frozen=True)
class GateConfig(Settings):
    prefix: ClassVar[str] = "gate"
    tau: float = knob(0.02, "Novelty at or above which a tubelet is encoded.", at_least=0.0)
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from difflib import SequenceMatcher
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, NamedTuple, TypeVar, get_args, get_origin

Section = TypeVar("Section")


SHOWN = 200  # characters of a value in a message


class ConfigError(ValueError):
    """A setting that cannot work. The message names the value and the remedy."""


def shown(value: object) -> str:
    """Write a value for a message, as repr does but in bounds: it may come from a file or a message of anybody's."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


@dataclass(frozen=True)
class Knob:
    """Meaning and limits of a setting, kept in its dataclass field's metadata.

    Attributes:
        description: one or more sentences.
        at_least, at_most: least and largest number.
        choices: the values allowed; of a tuple, for each of its items.
        live: True if it may change while the node is active.
        metavar: what stands for the value in a command's help; "" leaves that to the type.
        positional: True if a command takes it by position, not as an option.
    """

    description: str
    at_least: float | None = None
    at_most: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False
    metavar: str = ""
    positional: bool = False

    def check(self, name: str, value: object) -> None:
        """Raise ConfigError unless `value`, or each item of it if it is a tuple, is one that this setting takes."""
        if isinstance(value, tuple):
            for item in value:
                self.check(name, item)
        elif self.choices and value not in self.choices:
            raise ConfigError(f"{name} is {shown(value)}: choose one of {', '.join(self.choices)}")
        elif isinstance(value, int | float):
            self._check_number(name, value)

    def _check_number(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise ConfigError(f"{name} is {value}: give a finite number")
        if self.at_least is not None and value < self.at_least:
            raise ConfigError(f"{name} is {value}: give at least {self.at_least}")
        if self.at_most is not None and value > self.at_most:
            raise ConfigError(f"{name} is {value}: give at most {self.at_most}")


def knob(default: Any, description: str, **limits: Any) -> Any:
    """Declare a setting: its default, its meaning, and its limits (see Knob)."""
    return field(default=default, metadata={"knob": Knob(description, **limits)})


def required(description: str, **limits: Any) -> Any:
    """Declare a setting that has no default."""
    return field(metadata={"knob": Knob(description, **limits)})


def same_as(section: type, name: str) -> Any:
    """Declare a setting again, with the default and the knob that it has in another section."""
    original = section.__dataclass_fields__[name]  # type: ignore[attr-defined]  # a section is a dataclass
    return field(default=original.default, metadata=original.metadata)


class Settings:
    """Base of a dataclass of knobs: converts and checks each of them on construction.

    A whole number given for a float becomes one, a list for a tuple a tuple, text for a Path a Path.

    Raises:
        ConfigError: a value has the wrong type or is out of range.
    """

    prefix: ClassVar[str] = ""  # of the names in messages: "gate" makes them gate.tau

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            if "knob" in item.metadata:
                name = f"{self.prefix}.{item.name}".lstrip(".")
                value = _convert(name, getattr(self, item.name), item.type, _example(item))
                object.__setattr__(self, item.name, value)
                item.metadata["knob"].check(name, value)


class Setting(NamedTuple):
    """One knob as parameters, tables and commands see it.

    Attributes:
        name: with its section, such as gate.tau.
        type: bool, int, float, str, Path, a tuple of one of these, or one of these or None.
        default: dataclasses.MISSING if it must be given.
    """

    name: str
    type: Any
    default: Any
    knob: Knob

    @property
    def text(self) -> str:
        """Description, and the values to choose from."""
        choose = "Any" if self.is_list else "One"
        choices = f" {choose} of {', '.join(self.knob.choices)}." if self.knob.choices else ""
        return f"{self.knob.description}{choices}"

    @property
    def item_type(self) -> Any:
        """Type of the value, or of its items if it is a tuple; None as an alternative is left out."""
        return next(t for t in (*get_args(self.type), self.type) if t is not NoneType)

    @property
    def is_list(self) -> bool:
        """True if the value is a tuple."""
        return get_origin(self.type) is tuple


def settings_of(kind: type) -> Iterator[Setting]:
    """Yield every knob of a dataclass, those of nested dataclasses by dotted names."""
    for item in fields(kind):
        if "knob" in item.metadata:
            yield Setting(item.name, item.type, item.default, item.metadata["knob"])
        elif is_dataclass(item.type):
            for inner in settings_of(item.type):  # type: ignore[arg-type]  # a type, as is_dataclass just said
                yield inner._replace(name=f"{item.name}.{inner.name}")


def build(kind: type[Section], values: Mapping[str, Any], base: Section | None = None) -> Section:
    """Make a dataclass of knobs from values by dotted name; the others stay as in `base`, or at their defaults.

    Raises:
        ConfigError: a name is no setting, a setting without default is missing, or a value cannot work.
    """
    known = {setting.name: setting for setting in settings_of(kind)}
    for name in values:
        if name not in known:
            raise ConfigError(explain_unknown(name, list(known)))
    if base is None:
        for name, setting in known.items():
            if setting.default is MISSING and name not in values:
                raise ConfigError(f"{name} is not given: {setting.knob.description}")
    built: Section = _assemble(kind, values, base, "")
    return built


def explain_unknown(name: str, known: Sequence[str]) -> str:
    """Say that there is no such setting, and which of the known ones is nearest: the same in another section first."""
    last = name.rpartition(".")[2]
    nearest = max(
        known, key=lambda other: (other.rpartition(".")[2] == last, SequenceMatcher(None, name, other).ratio())
    )
    return f"{name} is no setting: did you mean {nearest}?"


def _assemble(kind: Any, values: Mapping[str, Any], base: Any, prefix: str) -> Any:
    arguments: dict[str, Any] = {} if base is None else {f.name: getattr(base, f.name) for f in fields(kind)}
    for item in fields(kind):
        name = f"{prefix}{item.name}"
        if name in values:
            arguments[item.name] = values[name]
        elif is_dataclass(item.type) and "knob" not in item.metadata:
            present = item.default if base is None else getattr(base, item.name)
            inner = None if present is MISSING else present
            arguments[item.name] = _assemble(item.type, values, inner, f"{name}.")
    return kind(**arguments)


def _convert(name: str, value: Any, wanted: Any, example: str) -> Any:
    """Return the value as the type `wanted`."""
    if isinstance(wanted, UnionType):  # X | None
        return None if value is None else _convert(name, value, get_args(wanted)[0], example)
    if get_origin(wanted) is tuple and isinstance(value, list | tuple):
        return tuple(_convert(name, item, get_args(wanted)[0], example) for item in value)
    if wanted is float and type(value) is int:
        return float(value)
    if wanted is Path and isinstance(value, str | Path):
        return Path(os.path.expanduser(value))
    if type(value) is not wanted:
        expected = (get_origin(wanted) or wanted).__name__
        raise ConfigError(
            f"{name} is {shown(value)} ({type(value).__name__}): give a value of type {expected}{example}"
        )
    return value


def _example(item: "Field[Any]") -> str:
    return "" if item.default is MISSING else f", like {item.default!r}"
