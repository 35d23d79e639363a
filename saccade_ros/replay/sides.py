"""Sides of a comparison: the records of one or more runs each, and what they must share to be compared."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saccade_ros.replay.record import VERSION

KINDS = ("machine", "model", "recording", "settings")  # of what two sides share


class CompareError(ValueError):
    """Records that cannot be compared as asked. The message says why, and the remedy."""


def read_side(text: str) -> list[dict[str, Any]]:
    """Read the records of one side."""
    files = [file for part in text.split(",") for file in _files(part.strip())]
    return [_read(file) for file in files]


def _files(part: str) -> list[Path]:
    """Find the files of one path or pattern; of a folder, its summary.json."""
    path = Path(part).expanduser()
    if path.is_dir():
        return [path / "summary.json"]
    if path.exists() or not any(letter in part for letter in "*?["):
        return [path]
    found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    if not found:
        raise CompareError(f"{part} is the pattern of no file: give the summary.json of a replay")
    return [file / "summary.json" if file.is_dir() else file for file in found]


def _read(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CompareError(f"{file} cannot be read ({error}): give the summary.json of a replay") from error
    found = (record.get("format"), record.get("version")) if isinstance(record, dict) else ("", "")
    if found != ("saccade replay", VERSION):
        raise CompareError(f"{file} is no record of a replay in version {VERSION}: make it again with this package")
    if not record["is_result"]:
        raise CompareError(f"{file} is no result: {' '.join(record['problems'])}")
    return {**record, "file": str(file)}


def identity(record: Mapping[str, Any], kind: str) -> str:
    """Return what two records must share to be of one machine, model, recording or choice of settings, as text."""
    if kind == "settings":
        return json.dumps(_settings(record), sort_keys=True)
    facts = {"machine": ("machine",), "model": ("weights_sha256",), "recording": ("recording_sha256",)}[kind]
    shared = {name: record[name] for name in facts}
    if kind == "machine":
        shared["gpus"] = record["environment"].get("gpus")
    return json.dumps(shared, sort_keys=True)


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a user chose, and what automatic choices came to; the model has a kind of its own."""
    facts, parameters = record["environment"], record["parameters"]
    chosen = {name: facts.get(name) for name in ("backend", "device", "precision", "threads")}
    own = {name: value for name, value in parameters.items() if name != "encoder.model"}
    return {"mode": record["mode"], **{f"player.{k}": v for k, v in record["player"].items()}, **own, **chosen}


def explain_difference(kinds: Sequence[str], sides: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Say what differs, by an example of each."""
    first = sides[0][0]
    told = []
    for kind in kinds:
        other = next(r for side in sides for r in side if identity(r, kind) != identity(first, kind))
        told.append(f"{kind} ({_example(kind, first, other)})")
    return (
        f"the two sides differ in {', '.join(told)}: a difference of the figures would not tell of one thing alone; "
        f"measure again, or say so with --across {' '.join(kinds)}"
    )


def _example(kind: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    if kind == "settings":
        ours, theirs = _settings(one), _settings(other)
        names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
        more = f", and {len(names) - 3} more" if len(names) > 3 else ""
        return ", ".join(f"{name} {ours.get(name)} and {theirs.get(name)}" for name in names[:3]) + more
    name = {"machine": "machine", "model": "weights_sha256", "recording": "recording_sha256"}[kind]
    texts = [str(record[name]) if kind == "machine" else str(record[name])[:12] for record in (one, other)]
    return " and ".join(texts)


def are_alternated(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> bool:
    """True unless all runs of one side, of several, were made before all of the other."""
    ours, theirs = ([str(record["started"]) for record in side] for side in (before, after))
    if len(ours) < 2 and len(theirs) < 2:
        return False
    return max(ours) >= min(theirs) and max(theirs) >= min(ours)
