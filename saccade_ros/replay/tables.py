"""Tables of a replay as CSV: a row for each embedding, and a row for each trial."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from saccade_ros.replay.recording import EmbeddingRow


def embeddings_csv(rows: Sequence[EmbeddingRow]) -> str:
    """Write one line for each embedding, in the order received, with its tubelet's stamp, decision and times."""
    return _csv([column.name for column in fields(EmbeddingRow)], [asdict(row) for row in rows])


def trials_csv(trials: Sequence[Mapping[str, Any]]) -> str:
    """Write one line for each trial of the record; what is nested has its names joined, such as latency_ms.p99."""
    lines = [dict(_flat(trial)) for trial in trials]
    return _csv(list(dict.fromkeys(name for line in lines for name in line)), lines)


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield from zip((f"{prefix}{name}.low", f"{prefix}{name}.high"), value, strict=True)
        else:
            yield f"{prefix}{name}", value


def _csv(names: list[str], lines: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
