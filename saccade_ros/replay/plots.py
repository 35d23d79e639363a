"""Plots of the report, as inline SVG that follows the page's light or dark colours."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saccade_ros.measure.figures import plain
from saccade_ros.replay.metrics import USED
from saccade_ros.replay.recording import EmbeddingRow, Recording, percentile
from saccade_ros.replay.trial import NOT_SAMPLED, Trial

Floats = npt.NDArray[np.float64]

# Okabe and Ito's palette, told apart by all kinds of colour vision, on white as on black.
CALM, NEW, TAU = "#56b4e9", "#e69f00", "#cc79a7"
STAGES = {"queue": "#999999", "decode": "#56b4e9", "gate": "#009e73", "encode": "#e69f00"}
_NOTHING = "<p>No tubelet, nothing to draw.</p>"
_INK = "#123456"  # stands for the page's text colour until the SVG is written
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "novelty",  # ids of the two plots on one page must differ
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
    """Plot novelty over time, tau, encoded moments and resets, above the share of tokens computed, for each stream."""
    if not recording.rows:
        return _NOTHING
    streams = _by_stream(recording)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(11, 3.4 * len(streams)), layout="constrained")
        panels = figure.subplots(2 * len(streams), 1, sharex=True, height_ratios=[3, 1] * len(streams))
        for above, below, (stream, rows) in zip(panels[::2], panels[1::2], streams.items(), strict=True):
            _draw_novelty(above, rows, recording.start_ns)
            _draw_computed(below, rows, recording.start_ns)
            if len(streams) > 1:
                above.set_title(plain(stream), loc="left", fontsize=10)
        figure.align_ylabels()
        panels[-1].set_xlabel("seconds of the recording")
        panels[0].legend(loc="upper right", ncols=4, fontsize=9, bbox_to_anchor=(1, 1.22))
        return _svg(figure)


def latency_plot(recording: Recording) -> str:
    """Plot the time that each tubelet took, stage upon stage."""
    if not recording.rows:
        return _NOTHING
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": "latency"}):
        figure = Figure(figsize=(11, 2.6), layout="constrained")
        axes = figure.subplots()
        seconds = _seconds(recording.rows, recording.start_ns)
        base = np.zeros(len(seconds))
        for stage, colour in STAGES.items():
            times = np.array([getattr(row, f"{stage}_ms") for row in recording.rows])
            _fill(axes, seconds, base, base + times, color=colour, label=stage)
            base += times
        axes.set(xlabel="seconds of the recording", ylabel="ms", ylim=(0, None))
        axes.legend(loc="upper right", ncols=4, fontsize=9, bbox_to_anchor=(1, 1.2))
        return _svg(figure)


def trial_curves(trials: Sequence[Trial]) -> str:
    """Plot latency and drops of each trial over the rate offered, with a line through the medians at each rate.

    Trials whose player was late are hollow, and stand for nothing.
    """
    ordered = sorted(trials, key=lambda trial: trial.offered_hz)
    if len({trial.offered_hz for trial in ordered}) < 2:
        return "<p>One rate was played, and a curve needs several: --mode peak or --mode steps.</p>"
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": "trials"}):
        figure = Figure(figsize=(11, 5), layout="constrained")
        late, dropped = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        for q, colour in ((50, CALM), (99, NEW)):
            times = [percentile(trial.end_to_end_ms, q) for trial in ordered]
            _draw_rates(late, ordered, times, colour, f"p{q}")
        lost = [100 * (1 - trial.share(*USED, NOT_SAMPLED)) for trial in ordered]
        _draw_rates(dropped, ordered, lost, TAU, "dropped")
        late.set(ylabel="sent to received, ms", ylim=(0, None))
        dropped.set(xlabel="images offered per second and topic", ylabel="frames, %", ylim=(0, 100))
        late.legend(loc="upper right", ncols=2, fontsize=9, bbox_to_anchor=(1, 1.14))
        dropped.legend(loc="upper left", fontsize=9)
        return _svg(figure)


def _draw_rates(axes: Axes, trials: Sequence[Trial], values: Sequence[float | None], colour: str, label: str) -> None:
    rates = np.array([trial.offered_hz for trial in trials])
    heights, held = np.array(values, np.float64), np.array([trial.held for trial in trials])
    for which, fill in ((held, "full"), (~held, "none")):
        axes.plot(rates[which], heights[which], "o", color=colour, markersize=5, fillstyle=fill)
    tried = np.unique(rates[held])
    medians = [np.median(heights[held & (rates == hz)]) for hz in tried]
    axes.plot(tried, medians, color=colour, linewidth=1.2, label=label)


def _draw_novelty(axes: Axes, rows: Sequence[EmbeddingRow], start_ns: int) -> None:
    seconds, novelty = _seconds(rows, start_ns), np.array([row.novelty for row in rows])
    encoded = np.array([row.encoded for row in rows])
    axes.plot(seconds, novelty, color=CALM, linewidth=1.2, label="novelty")
    ends = np.concatenate((seconds[:1], seconds, seconds[-1:] + 0.1))  # so that one tubelet has a line, too
    tau = np.pad([row.novelty_threshold for row in rows], 1, mode="edge")
    axes.plot(ends, tau, color=TAU, linewidth=1.2, linestyle="--", label="tau")
    axes.plot(seconds[encoded], novelty[encoded], "o", color=NEW, markersize=4, label="encoded")
    unmeasured = encoded & np.isnan(novelty)
    (first,) = axes.plot(seconds[unmeasured], 0 * seconds[unmeasured], "o", color=NEW, markersize=4, label="first")
    first.set(fillstyle="none", clip_on=False, in_layout=False)
    epochs = [row.stream_epoch for row in rows]
    for at in np.flatnonzero(np.diff(epochs)) + 1:
        axes.axvline(float(seconds[at]), color=_INK, linewidth=1, linestyle=":", label="_reset")
    axes.set_ylim(0, None)
    axes.set_ylabel("novelty")
    axes.margins(x=0.01)


def _draw_computed(axes: Axes, rows: Sequence[EmbeddingRow], start_ns: int) -> None:
    percent = np.array([100 * row.tokens_computed / row.tokens for row in rows])
    _fill(axes, _seconds(rows, start_ns), np.zeros(len(rows)), percent, color=NEW)
    axes.set(ylim=(0, 100), yticks=(0, 100), ylabel="tokens, %")


def _fill(axes: Axes, seconds: Floats, low: Floats, high: Floats, **style: Any) -> None:
    """Fill between two values of each tubelet, as one shape; bars would be thousands."""
    width = float(np.median(np.diff(np.unique(seconds)))) if len(set(seconds)) > 1 else 0.1
    edges = np.repeat(seconds, 2) + np.tile((-width / 2, width / 2), len(seconds))
    axes.fill_between(edges, np.repeat(low, 2), np.repeat(high, 2), linewidth=0, **style)


def _by_stream(recording: Recording) -> dict[str, list[EmbeddingRow]]:
    streams: dict[str, list[EmbeddingRow]] = {}
    for row in recording.rows:
        streams.setdefault(row.stream, []).append(row)
    return streams


def _seconds(rows: Sequence[EmbeddingRow], start_ns: int) -> Floats:
    return np.array([(row.stamp_ns - start_ns) / 1e9 for row in rows])


def _svg(figure: Figure) -> str:
    page = io.StringIO()
    figure.savefig(page, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = page.getvalue()
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")
