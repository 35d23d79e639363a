"""Findings of `saccade doctor`, and printing them: a table, plain lines or JSON."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Finding:
    """One line of the screen.

    Attributes:
        state: "ok", "missing" (something optional is not there) or "broken" (it is there and does not work).
        remedy: what to do about it; empty if nothing needs doing.
    """

    name: str
    state: str
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Findings:
    """All findings on a machine, in the screen's order.

    Attributes:
        can_run: frames can be decoded and at least one runtime can encode them.
    """

    lines: tuple[Finding, ...]
    can_run: bool


def print_findings(findings: Findings, as_json: bool = False) -> None:
    """Print a table where rich is installed, plain lines where not, or JSON."""
    if as_json:
        lines = [asdict(line) for line in findings.lines]
        print(json.dumps({"can_run": findings.can_run, "findings": lines}, indent=2))
        return
    try:
        _print_table(findings)
    except ImportError:
        for line in findings.lines:
            print(f"{line.state:8} {line.name:14} {line.detail}" + (f"  -> {line.remedy}" if line.remedy else ""))
    print("This machine can run the encoder." if findings.can_run else "This machine cannot run the encoder yet.")


def _print_table(findings: Findings) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    colours = {"ok": "green", "missing": "yellow", "broken": "red"}
    table = Table(box=None, show_header=False, pad_edge=False)
    for line in findings.lines:
        text = escape(line.detail) + (f"\n[dim]-> {escape(line.remedy)}[/]" if line.remedy else "")
        table.add_row(f"[{colours[line.state]}]{line.state}[/]", line.name, text)
    Console().print(table)
