"""Pictures of calibrations and comparisons."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by all kinds of colour vision.
COLOURS = {"surprise": "#0072b2", "pixel difference": "#e69f00", "previous tubelet": "#999999"}
INK = "#1d2733"


def save_curve(result: dict[str, Any], file: Path) -> None:
    """Compute against fidelity: each gate's curve on what was held out, the promise, and the choice."""
    figure = Figure(figsize=(8, 5), layout="constrained", facecolor="white")
    axes = figure.subplots()
    for name, points in result["curves"].items():
        rates, p5 = ([100 * p["held_out"]["rate"] for p in points], [p["held_out"]["p5"] for p in points])
        order = np.argsort(rates)
        axes.plot(np.array(rates)[order], np.array(p5)[order], ".-", color=COLOURS[name], label=f"{name} gate")
    axes.axhline(result["target"], color=INK, linestyle="--", linewidth=1, label=f"target {result['target']:g}")
    if result["chosen"]:
        chosen = result["chosen"]["held_out"]
        label = f"chosen: tau {result['tau']:.3f}"
        axes.plot(100 * chosen["rate"], chosen["p5"], "o", markersize=11, color="#d55e00", label=label, zorder=5)
    names = ", ".join(recording["name"] for recording in result["recordings"]["held_out"])
    axes.set(
        xlabel="tubelets encoded, %", ylabel="5th percentile of centred cosine, reused against fresh", xlim=(0, 102)
    )
    axes.set_title(f"held out: {names}\n{result['weights']}, window {result['window']}", loc="left", fontsize=10)
    axes.legend(loc="lower right", frameon=False)
    axes.grid(alpha=0.25)
    _save(figure, file)


def save_table(result: dict[str, Any], file: Path) -> None:
    """Mean and 5th percentile of each gate on each recording, at equal compute."""
    rows = result["rows"]
    figure = Figure(figsize=(11, 0.46 * len(rows) + 1.6), layout="constrained", facecolor="white")
    panels = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(rows))[::-1]
    for panel, key, title in zip(panels, ("mean", "p5"), ("mean", "5th percentile"), strict=True):
        for name, colour in COLOURS.items():
            values = [row["gates"][name][key] for row in rows]
            marker, size = ("o", 60) if name == "surprise" else ("D", 34)
            panel.scatter(values, places, s=size, color=colour, label=f"{name} gate", marker=marker, zorder=3)
        panel.set(xlabel=f"centred cosine to always-encode, {title}")
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(places, [f"{row['name']}  ({row['gates']['surprise']['rate']:.0%})" for row in rows])
    panels[0].legend(loc="lower left", frameon=False, fontsize=9)
    figure.suptitle(
        f"{result['weights']}; encoded share in brackets, equal for the three gates", x=0.01, ha="left", fontsize=10
    )
    _save(figure, file)


def _save(figure: Figure, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(file, dpi=130)
