"""The report's plots, as inline SVG that follows the page's light or dark colours."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saccade_ros.replay.recording import EmbeddingRow, Recording

# Okabe and Ito's palette, told apart by all kinds of colour vision, on white as on black.
CALM, NEW, TAU = "#56b4e9", "#e69f00", "#cc79a7"
STAGES = {"queue": "#999999", "decode": "#56b4e9", "gate": "#009e73", "encode": "#e69f00"}
_NOTHING = "<p>No tubelet, nothing to draw.</p>"
_INK = "#123456"  # stands for the page's text colour until the SVG is written
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "saccade",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def novelty_timeline(recording: Recording) -> str:
    """Novelty over time, tau, encoded moments and resets; one panel for each stream."""
    if not recording.rows:
        return _NOTHING
    streams = _by_stream(recording)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(11, 2.6 * len(streams)), layout="constrained")
        panels = np.atleast_1d(figure.subplots(len(streams), 1, sharex=True))
        for panel, (stream, rows) in zip(panels, streams.items(), strict=True):
            _draw_novelty(panel, rows)
            panel.set_ylabel("novelty")
            if len(streams) > 1:
                panel.set_title(stream, loc="left", fontsize=10)
        panels[-1].set_xlabel("seconds of the recording")
        panels[0].legend(loc="upper right", ncols=4, fontsize=9, bbox_to_anchor=(1, 1.22))
        return _svg(figure)


def latency_plot(recording: Recording) -> str:
    """What each tubelet cost, stage upon stage."""
    if not recording.rows:
        return _NOTHING
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(11, 2.6), layout="constrained")
        axes = figure.subplots()
        seconds = _seconds(recording.rows)
        base = np.zeros(len(seconds))
        for stage, colour in STAGES.items():
            times = np.array([getattr(row, f"{stage}_ms") for row in recording.rows])
            axes.fill_between(seconds, base, base + times, step="mid", color=colour, label=stage, linewidth=0)
            base += times
        axes.set(xlabel="seconds of the recording", ylabel="ms", ylim=(0, None))
        axes.legend(loc="upper right", ncols=4, fontsize=9, bbox_to_anchor=(1, 1.2))
        return _svg(figure)


def _draw_novelty(axes: Axes, rows: Sequence[EmbeddingRow]) -> None:
    seconds, novelty = _seconds(rows), np.array([row.novelty for row in rows])
    encoded = np.array([row.encoded for row in rows])
    axes.plot(seconds, novelty, color=CALM, linewidth=1.2, label="novelty")
    axes.plot(seconds, [row.threshold for row in rows], color=TAU, linewidth=1.2, linestyle="--", label="tau")
    height = np.where(np.isnan(novelty), 0.0, novelty)
    axes.plot(seconds[encoded], height[encoded], "o", color=NEW, markersize=4, label="encoded")
    epochs = [row.epoch for row in rows]
    for at in np.flatnonzero(np.diff(epochs)) + 1:
        axes.axvline(float(seconds[at]), color=_INK, linewidth=1, linestyle=":", label="_reset")
    axes.set_ylim(0, None)
    axes.margins(x=0.01)


def _by_stream(recording: Recording) -> dict[str, list[EmbeddingRow]]:
    streams: dict[str, list[EmbeddingRow]] = {}
    for row in recording.rows:
        streams.setdefault(row.stream, []).append(row)
    return streams


def _seconds(rows: Sequence[EmbeddingRow]) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    start_ns = min(row.stamp_ns for row in rows)
    return np.array([(row.stamp_ns - start_ns) / 1e9 for row in rows])


def _svg(figure: Figure) -> str:
    page = io.StringIO()
    figure.savefig(page, format="svg", transparent=True, metadata={"Date": None})
    svg = page.getvalue()
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")
