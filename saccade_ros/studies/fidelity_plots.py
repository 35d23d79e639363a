"""The picture of an evaluation: fidelity against its price, and beside it how an event fades."""

import textwrap
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, ScalarFormatter

# Okabe and Ito's palette, told apart by all kinds of colour vision.
COLOURS = ("#0072b2", "#e69f00", "#999999", "#009e73")


def draw(record: dict[str, Any], file: Path) -> Path:
    """Draw a record of `evaluate_fidelity`."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    fidelity, forgetting = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_fidelity(fidelity, record["fidelity"])
    _draw_forgetting(forgetting, record)
    clips = ", ".join(f"{clip['name']} ({clip['tubelets']} tubelets)" for clip in record["clips"])
    adapter = f", adapter {record['adapter']}" if record["adapter"] else ""
    about = f"{record['weights']}{adapter}; {record['precision']}, {record['threads']} threads; {clips}"
    figure.suptitle("\n".join(textwrap.wrap(about, 130)), fontsize=9)
    figure.savefig(file, dpi=90)
    return file


def _draw_fidelity(axes: Axes, rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(row["curve"] for row in rows))
    for name, colour in zip(names, COLOURS, strict=False):
        points = sorted(
            (row for row in rows if row["curve"] == name), key=lambda row: (row["recompute"], row["window"])
        )
        ms, mean = [row["ms"] for row in points], [row["mean"] for row in points]
        axes.plot(ms, mean, "o-", color=colour, markersize=4, label=name)
        axes.vlines(ms, [row["p5"] for row in points], mean, color=colour, linewidth=1.2, alpha=0.7)
        axes.plot(ms, [row["worst"] for row in points], "v", color=colour, markersize=4, alpha=0.5)
        _label_ends(axes, points, colour)
    axes.set(xlabel="ms per tubelet", ylabel="centred cosine to the clip encoder", xscale="log")
    axes.set_title("fidelity: mean, down to p5; triangle: worst", fontsize=10)
    axes.grid(alpha=0.25)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _label_ends(axes: Axes, points: list[dict[str, Any]], colour: str) -> None:
    letter, key = ("W", "window") if len({row["window"] for row in points}) > 1 else ("r", "recompute")
    for row, side in zip((points[0], points[-1]), ("right", "left"), strict=True):
        at = (4 if side == "left" else -4, 6)
        label, point = f"{letter}={row[key]}", (row["ms"], row["mean"])
        axes.annotate(label, point, at, textcoords="offset points", fontsize=8, color=colour, ha=side)


def _draw_forgetting(axes: Axes, record: dict[str, Any]) -> None:
    rows = record["forgetting"]
    for row, colour in zip(rows, COLOURS, strict=False):
        visible = [(i + 1, value) for i, value in enumerate(row["trace"]) if value > 0]
        axes.plot(*zip(*visible, strict=True), ".-", color=colour, label=f"recompute {row['recompute']}")
        axes.axvline(row["receptive_field"], color=colour, linestyle=":", linewidth=1)
    axes.axhline(1, color="black", linewidth=0.6, linestyle="--")
    across, down = axes.get_yaxis_transform(), axes.get_xaxis_transform()
    axes.text(0.02, 0.9, "the clip's own variation", transform=across, fontsize=8, va="top")
    axes.axvline(record["window"], color="black", linewidth=0.8)
    axes.text(record["window"], 1.01, " left the window", transform=down, fontsize=8, ha="center")
    axes.set(xlabel="tubelets after the cut", ylabel="what is left of the event", yscale="log")
    axes.set_title("time to forget (dotted: gone for good)", fontsize=10, pad=16)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
