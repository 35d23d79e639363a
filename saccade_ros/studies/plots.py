"""Pictures of the studies, in one palette."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, ScalarFormatter

from saccade_ros.measure.figures import plain
from saccade_ros.plan.novelty import SAFETY
from saccade_ros.storage import whole_path

# Okabe and Ito's palette, told apart by all kinds of colour vision.
BLUE, ORANGE, GREY, GREEN, RED, INK = "#0072b2", "#e69f00", "#999999", "#009e73", "#d55e00", "#1d2733"
CURVES = (BLUE, ORANGE, GREY, GREEN)
COLUMNS = {"pixels 16x16": GREY, "untrained": ORANGE, "teacher": GREEN, "encoder": BLUE}
GATES = {"predicted": BLUE, "pixels": ORANGE, "previous": GREY, "even": GREEN}  # by gate.policy


def draw_calibration(record: dict[str, Any], file: Path) -> Path:
    """Draw, of the held-out recordings, compute against fidelity by gate, and the losses expected and found."""
    figure = new_figure(12, 5)
    axes, losses = figure.subplots(1, 2)
    _draw_losses(losses, record)
    for name, points in record["curves"].items():
        rates, p5 = ([100 * p["held_out"]["rate"] for p in points], [p["held_out"]["p5"] for p in points])
        order = np.argsort(rates)
        axes.plot(np.array(rates)[order], np.array(p5)[order], ".-", color=GATES[name], label=f"{name} gate")
    axes.axhline(record["target"], color=INK, linestyle="--", linewidth=1, label=f"target {record['target']:g}")
    if record["chosen"]:
        chosen = record["chosen"]["held_out"]
        label = f"chosen: tau {record['tau']:.3f}"
        axes.plot(100 * chosen["rate"], chosen["p5"], "o", markersize=11, color=RED, label=label, zorder=5)
    names = ", ".join(recording["name"] for recording in record["recordings"]["held_out"])
    axes.set(
        xlabel="tubelets encoded, %", ylabel="5th percentile of centred cosine, reused against fresh", xlim=(0, 102)
    )
    axes.set_title(plain(f"held out: {names}\n{record['weights']}, window {record['window']}"), loc="left", fontsize=10)
    axes.legend(loc="best", frameon=False)
    axes.grid(alpha=0.25)
    return save_figure(figure, file)


def _draw_losses(axes: Axes, record: dict[str, Any]) -> None:
    pairs = np.maximum(np.array(record["answers"]["held_out"]).reshape(-1, 2), 1e-4)
    axes.loglog(pairs[:, 0], pairs[:, 1], ".", color=BLUE, alpha=0.5)
    ends = [1e-4, 1.0]
    axes.loglog(ends, ends, "-", color=GREY, linewidth=1, label="found as expected")
    axes.loglog(
        ends, [SAFETY * end for end in ends], "--", color=INK, linewidth=1, label="novelty, the bound for 19 of 20"
    )
    axes.set(xlabel="loss expected, without what the running gate learns", ylabel="loss found, 1 - centred cosine")
    axes.set_title(f"rank correlation {record['rank_correlation']:.2f}", loc="left", fontsize=10)
    axes.legend(loc="upper left", frameon=False)
    axes.grid(alpha=0.25)


def draw_gates(record: dict[str, Any], file: Path) -> Path:
    """Draw mean and 5th percentile of each gate on each recording, at equal compute."""
    rows = record["rows"]
    figure = new_figure(11, 0.46 * len(rows) + 1.6)
    panels = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(rows))[::-1]
    for panel, key, title in zip(panels, ("mean", "p5"), ("mean", "5th percentile"), strict=True):
        for name, colour in GATES.items():
            values = [row["gates"][name][key] for row in rows]
            marker, size = ("o", 60) if name == "predicted" else ("D", 34)
            panel.scatter(values, places, s=size, color=colour, label=f"{name} gate", marker=marker, zorder=3)
        bound = [row["oracle"][key] for row in rows]
        panel.scatter(bound, places, s=34, color="black", label="oracle, at its own share", marker="x", zorder=4)
        panel.set(xlabel=f"centred cosine to always-encode, {title}")
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    shares = [(row["gates"]["predicted"]["rate"], row["oracle"]["rate"]) for row in rows]
    names = [
        f"{plain(row['name'])}  ({ours:.0%}; {least:.0%})" for row, (ours, least) in zip(rows, shares, strict=True)
    ]
    panels[0].set_yticks(places, names)
    marks, labels = panels[0].get_legend_handles_labels()
    figure.legend(marks, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    about = f"{record['weights']}; encoded share in brackets: each gate's; the oracle's"
    figure.suptitle(about, x=0.01, ha="left", fontsize=10)
    return save_figure(figure, file)


def draw_fidelity(record: dict[str, Any], file: Path) -> Path:
    """Draw fidelity against its price, and beside it the fading of an event."""
    figure = new_figure(11, 4.4)
    fidelity, forgetting = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_curves(fidelity, record["fidelity"])
    _draw_forgetting(forgetting, record)
    clips = ", ".join(f"{clip['name']} ({clip['tubelets']} tubelets)" for clip in record["clips"])
    adapter = f", adapter {record['adapter']}" if record["adapter"] else ""
    about = f"{record['weights']}{adapter}; {record['precision']}, {record['threads']} threads; {clips}"
    figure.suptitle("\n".join(textwrap.wrap(about, 130)), fontsize=9)
    return save_figure(figure, file)


def draw_usefulness(record: dict[str, Any], file: Path) -> Path:
    """Draw a panel for each measure: a bar for each column, a dot for each clip or label, a line at chance."""
    measures = record["measures"]
    rows = -(-len(measures) // 2)
    figure = new_figure(11, 0.8 + 2.1 * rows)
    panels = figure.subplots(rows, 2, squeeze=False).ravel()
    for panel, row in zip(panels, measures, strict=False):
        _draw_measure(panel, row)
    for panel in panels[len(measures) :]:
        panel.set_axis_off()
    about = f"{record['weights']}; {len(record['clips']['clips'])} clips; dots: one clip, or one label; dotted: chance"
    figure.suptitle("\n".join(textwrap.wrap(about, 130)), fontsize=9)
    return save_figure(figure, file)


def _draw_measure(axes: Axes, row: dict[str, Any]) -> None:
    columns = row["columns"]
    places = np.arange(len(columns))[::-1]
    for place, (name, one) in zip(places, columns.items(), strict=True):
        axes.barh(place, one["value"], height=0.7, color=COLUMNS[name], alpha=0.75)
        axes.plot(list(one["parts"].values()), [place] * len(one["parts"]), ".", color=INK, markersize=4, alpha=0.6)
        axes.text(1.03, place, f"{one['value']:.3f}", va="center", fontsize=9)
    axes.axvline(next(iter(columns.values()))["chance"], color=INK, linestyle=":", linewidth=1.2)
    axes.set_yticks(places, list(columns), fontsize=9)
    axes.set(xlim=(0, 1))
    axes.set_title(row["title"], fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_curves(axes: Axes, rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(row["curve"] for row in rows))
    for name, colour in zip(names, CURVES, strict=False):
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
    for row, colour in zip(record["forgetting"], CURVES, strict=False):
        visible = [(i + 1, value) for i, value in enumerate(row["trace"]) if value > 0]
        axes.plot(*zip(*visible, strict=True), ".-", color=colour, label=f"recompute {row['recompute']}")
        axes.axvline(row["receptive_field"], color=colour, linestyle=":", linewidth=1)
    axes.axhline(1, color="black", linewidth=0.6, linestyle="--")
    across, down = axes.get_yaxis_transform(), axes.get_xaxis_transform()
    axes.text(0.02, 0.9, "the clip's own variation", transform=across, fontsize=8, va="top")
    axes.axvline(record["window"], color="black", linewidth=0.8)
    axes.text(record["window"], 1.01, " left the window", transform=down, fontsize=8, ha="center")
    axes.set(xlabel="tubelets after the cut", ylabel="trace of the event, over the clip's own variation", yscale="log")
    axes.set_title("time to forget (dotted: gone for good)", fontsize=10, pad=16)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)


def new_figure(width: float, height: float) -> Figure:
    """Make a white page of this many inches."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def save_figure(figure: Figure, file: Path) -> Path:
    """Write a page as PNG, whole or not at all; return the file."""
    with whole_path(file) as path:
        figure.savefig(path, dpi=110)
    return file
