"""`saccade compare`: what differs between two replays, or two sides of several each, and whether a limit is broken.

A difference counts only as far as chance does not explain it. So each has an interval of 95 %, and a limit is broken
when the whole interval lies beyond it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from saccade_ros.knobs import Settings, knob, required
from saccade_ros.measure.progress import Progress
from saccade_ros.measure.series import Estimate
from saccade_ros.replay.limits import FIGURES, Limit, read_limit
from saccade_ros.replay.sides import KINDS, CompareError, are_alternated, explain_difference, identity, read_side

# Two-sided 95 % points of Student's t by degrees of freedom, 1 to 10; beyond, the last one is a little too careful.
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)

TOLD = 5  # changes named in the answer


@dataclass(frozen=True)
class Options(Settings):
    """Two sides, the limits that the second must keep, and what may differ between them."""

    before: str = required(
        "summary.json of the reference, or of several runs of it: separated by commas, or a quoted pattern.",
        metavar="A",
        positional=True,
    )
    after: str = required("The same of what is compared with it.", metavar="B", positional=True)
    fail_on: tuple[str, ...] = knob(
        (), "Limits of the change from A to B, such as p99:+10% peak:-5% fidelity_p5:-0.01.", metavar="LIMIT"
    )
    across: tuple[str, ...] = knob((), "What may differ between the two sides.", choices=KINDS)


class Difference(NamedTuple):
    """Change of one figure from A to B.

    Attributes:
        change: B less A, with its interval; None where neither side's runs tell how far chance goes.
    """

    name: str
    before: float
    after: float
    change: Estimate


def run(options: Options, progress: Progress) -> dict[str, Any]:
    """Compare the two sides.

    Raises:
        CompareError: a file is no record of a replay or no result, the sides differ in what they must share, or a
            limit is on a figure that cannot be judged.
        ConfigError: a limit cannot be read.
    """
    limits = [read_limit(text) for text in options.fail_on]
    sides = [read_side(text) for text in (options.before, options.after)]
    differing = [kind for kind in KINDS if len({identity(record, kind) for side in sides for record in side}) > 1]
    if refused := [kind for kind in differing if kind not in options.across]:
        raise CompareError(explain_difference(refused, sides))
    found = {difference.name: difference for difference in compare(*sides)}
    broken = [limit for limit in limits if _breaks(limit, found)]
    return {
        "format": "saccade compare",
        "answer": _answer(found, limits, broken),
        "across": differing,
        "alternated": are_alternated(*sides),
        "runs": [len(side) for side in sides],
        "figures": [_row(difference) for difference in found.values()],
        "limits": [limit.text for limit in limits],
        "broken": [limit.text for limit in broken],
    }


def exit_status(record: Mapping[str, Any]) -> int:
    """1 if a limit is broken."""
    return 1 if record["broken"] else 0


def compare(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> Iterator[Difference]:
    """Compare every figure that all records have."""
    for name, figure in FIGURES.items():
        ours, theirs = ([figure.read(record) for record in side] for side in (before, after))
        values = [[e.value for e in side if e.value is not None] for side in (ours, theirs)]
        if not values[0] or not values[1] or len(values[0]) < len(ours) or len(values[1]) < len(theirs):
            continue
        means = float(np.mean(values[0])), float(np.mean(values[1]))
        change = _of_runs(*values) if min(len(ours), len(theirs)) > 1 else _of_single(ours, theirs, *means)
        yield Difference(name, means[0], means[1], change)


def _of_runs(before: Sequence[float], after: Sequence[float]) -> Estimate:
    """Difference of the means of several runs on both sides, by Welch's t-test: runs are what chance acts on."""
    change = float(np.mean(after) - np.mean(before))
    parts = [float(np.var(side, ddof=1)) / len(side) for side in (before, after)]
    error = math.sqrt(sum(parts))
    if not error:
        return Estimate(change, change, change)
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(side) - 1) for part, side in zip(parts, (before, after), strict=True)
    )
    half = STUDENT_T[max(0, min(int(freedom), len(STUDENT_T)) - 1)] * error
    return Estimate(change, change - half, change + half)


def _of_single(ours: Sequence[Estimate], theirs: Sequence[Estimate], before: float, after: float) -> Estimate:
    """Difference of two runs by the interval within each, if both have one (Zou and Donner 2008, square and add).

    It knows nothing of what differs from run to run, and a side of several runs is no better off than its first here.
    """
    one, other, change = ours[0], theirs[0], after - before
    if len(ours) + len(theirs) > 2 or one.low is None or one.high is None or other.low is None or other.high is None:
        return Estimate(change)
    low = change - math.hypot(after - other.low, one.high - before)
    high = change + math.hypot(other.high - after, before - one.low)
    return Estimate(change, low, high)


def _breaks(limit: Limit, found: Mapping[str, Difference]) -> bool:
    """True if the whole interval of the change lies beyond the limit."""
    difference = found.get(limit.name)
    if difference is None:
        raise CompareError(f"{limit.text}: not every record has {limit.name}; its `missing` says why")
    change = difference.change
    if change.low is None or change.high is None:
        raise CompareError(
            f"{limit.text}: one run has no interval for {limit.name}, so chance cannot be told from change: "
            "give several runs of each side, alternated (docs/replay.md)"
        )
    if limit.relative and not difference.before:
        raise CompareError(f"{limit.text}: {limit.name} is 0 in A, of which there are no percent: give a plain number")
    scale = abs(difference.before) / 100 if limit.relative else 1.0
    return change.low > limit.change * scale if limit.change >= 0 else change.high < limit.change * scale


def _answer(found: Mapping[str, Difference], limits: Sequence[Limit], broken: Sequence[Limit]) -> str:
    """Say in a line what came of it."""
    if broken:
        told = ", ".join(f"{limit.text} ({_percent(found[limit.name])})" for limit in broken)
        return f"B breaks {len(broken)} of {len(limits)} limits: {told}"
    changed = [d for d in found.values() if _is_certain(d)]
    listed = [f"{d.name} {_percent(d)}" for d in changed[:TOLD]] + [f"{len(changed) - TOLD} more"] * (
        len(changed) > TOLD
    )
    kept = f"B keeps all {len(limits)} limits; " if limits else ""
    return f"{kept}from A to B changed: {', '.join(listed) or 'nothing beyond chance'}"


def _is_certain(difference: Difference) -> bool:
    """True if the interval of the change leaves 0 out."""
    low, high = difference.change.low, difference.change.high
    return low is not None and high is not None and (low > 0 or high < 0)


def _percent(difference: Difference) -> str:
    change, before = difference.change.value or 0.0, difference.before
    return f"{100 * change / abs(before):+.1f}%" if before else f"{change:+.4g}"


def _row(difference: Difference) -> dict[str, Any]:
    change = difference.change
    return {
        "name": difference.name,
        "before": difference.before,
        "after": difference.after,
        "change": change.value,
        "interval": None if change.low is None else [change.low, change.high],
        "certain": _is_certain(difference),
        "change_in_text": _percent(difference),
    }


def table(record: Mapping[str, Any]) -> Group:
    """Make the answer in a line, and the table of all figures."""
    runs = " and ".join(map(str, record["runs"]))
    shown = Table("figure", "A", "B", "change", "95 % interval", title=f"{runs} runs")
    for row in record["figures"]:
        low, high = row["interval"] or (math.nan, math.nan)
        interval = "-" if math.isnan(low) else f"{low:+.4g} to {high:+.4g}"
        style = "bold" if row["certain"] else ""
        cells = (row["name"], f"{row['before']:.4g}", f"{row['after']:.4g}", row["change_in_text"], interval)
        shown.add_row(*cells, style=style)
    notes = [f"measured across: {', '.join(record['across'])}"] if record["across"] else []
    if not record["alternated"]:
        notes.append("one side ran before the other: what the machine did meanwhile counts as a difference")
    answer = Text(record["answer"], style="bold red" if record["broken"] else "bold")
    return Group(answer, shown, *map(Text, notes))
