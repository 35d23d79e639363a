"""`saccade doctor`: the findings on this machine as a record, and as one screen."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from saccade_ros.doctor.probes import examine
from saccade_ros.knobs import Settings
from saccade_ros.measure.progress import Progress


@dataclass(frozen=True)
class Options(Settings):
    """No options: everything is examined."""


def run(options: Options, progress: Progress) -> dict[str, Any]:
    """Examine this machine; return Findings as a record."""
    findings = examine()
    return {"can_run": findings.can_run, "findings": [asdict(line) for line in findings.lines]}


def exit_status(record: dict[str, Any]) -> int:
    """Return 0 if this machine can run the encoder, else 1."""
    return 0 if record["can_run"] else 1


def table(record: dict[str, Any]) -> Any:
    """Make the screen: a table where rich is installed, plain lines where not."""
    outcome = f"This machine {'can run the encoder.' if record['can_run'] else 'cannot run the encoder yet.'}"
    try:
        return _rich_table(record["findings"], outcome)
    except ImportError:
        return "\n".join((*map(_line, record["findings"]), outcome))


def _line(finding: Mapping[str, str]) -> str:
    remedy = f"  -> {finding['remedy']}" if finding["remedy"] else ""
    return f"{finding['state']:8} {finding['name']:14} {finding['detail']}{remedy}"


def _rich_table(findings: Sequence[Mapping[str, str]], outcome: str) -> Any:
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    colours = {"ok": "green", "missing": "yellow", "broken": "red"}
    rows = Table(box=None, show_header=False, pad_edge=False)
    for line in findings:
        text = escape(line["detail"]) + (f"\n[dim]-> {escape(line['remedy'])}[/]" if line["remedy"] else "")
        rows.add_row(f"[{colours[line['state']]}]{line['state']}[/]", line["name"], text)
    return Group(rows, outcome)
