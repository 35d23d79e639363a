"""Plots and picture grids of the gaze study."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from saccade_ros.frames import Picture
from saccade_ros.measure.figures import plain
from saccade_ros.studies.gaze_rules import GREEDY, RANDOM, RULES, UNIFORM
from saccade_ros.studies.gaze_viewers import EXACT_DB, ClipGaze, Moment, Row
from saccade_ros.studies.plots import BLUE, GREEN, GREY, INK, ORANGE, RED, new_figure, save_figure

COLOURS = {GREEDY: BLUE, UNIFORM: GREEN, RANDOM: ORANGE}
SETTING_COLOURS = {"ratio_0.10": GREY, "ratio_0.25": ORANGE, "ratio_0.50": GREEN, "error": BLUE, "both": RED}
COMPARED = "ratio_0.25"  # the setting that the rules are compared at over time
NOT_SENT = 40  # grey level of a patch that was not sent
GAP = 4  # pixels between the pictures of a grid


def draw_tradeoff(record: dict[str, Any], file: Path) -> Path:
    """Draw PSNR and SSIM against the part of the patches sent: by rule over the clips, and ours for each clip."""
    figure = new_figure(11, 4.6)
    panels = figure.subplots(1, 2)
    for axes, key, label in zip(panels, ("psnr_db", "ssim"), ("PSNR, dB", "SSIM"), strict=True):
        for clip in record["clips"]:
            of_clip = [row for row in record["by_clip"] if row["clip"] == clip["name"] and row["rule"] == GREEDY]
            axes.plot(*_curve(of_clip, key), color=COLOURS[GREEDY], alpha=0.25, linewidth=1)
        for rule, colour in COLOURS.items():
            of_rule = [row for row in record["summary"] if row["rule"] == rule]
            axes.plot(*_curve(of_rule, key), "o-", color=colour, markersize=5, label=rule)
        _mark_targets(axes, record, key)
        axes.set(xlabel="patches sent of a tubelet", ylabel=f"{label} of the canvas", xlim=(0, 1.03))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].legend(loc="lower right", frameon=False)
    names = plain(", ".join(clip["name"] for clip in record["clips"]))
    about = f"{names}; {record['input_size']} px in patches of {record['patch_size']} px"
    figure.suptitle(
        f"{plain(about)}; thin: greedy, each clip; at 100% the canvas is exact", x=0.01, ha="left", fontsize=10
    )
    return save_figure(figure, file)


def _curve(rows: Sequence[Row], key: str) -> tuple[list[float], list[float]]:
    """Points of the settings that send a ratio, less those that are exact: 100 dB would flatten all others."""
    points = [(row["actual_ratio"], row[key]) for row in rows if row["setting"].startswith("ratio")]
    points = [(ratio, value) for ratio, value in points if key != "psnr_db" or value < EXACT_DB]
    return [ratio for ratio, _ in points], [value for _, value in points]


def _mark_targets(axes: Axes, record: dict[str, Any], key: str) -> None:
    """Mark where the greedy rule ends that sends what a PSNR asks for."""
    labels = {"error": f"greedy to {record['psnr_db']:g} dB", "both": f"the same, at most {record['ratio_cap']:.0%}"}
    for (name, label), marker in zip(labels.items(), ("D", "s"), strict=True):
        (row,) = (r for r in record["summary"] if (r["setting"], r["rule"]) == (name, GREEDY))
        axes.plot(row["actual_ratio"], row[key], marker, color=RED, markersize=8, label=label, linestyle="", zorder=4)


def draw_frames(clip: ClipGaze, psnr_db: float, file: Path) -> Path:
    """Draw PSNR and patches sent over a clip's time: ours by setting, and the rules at the same ratio."""
    figure = new_figure(11, 8)
    settings, rules, sent = figure.subplots(3, 1, sharex=True)
    for name, colour in SETTING_COLOURS.items():
        style = {"color": colour, "label": name, "linewidth": 1.3, "linestyle": "--" if name == "both" else "-"}
        settings.plot(*_over_time(clip, name, GREEDY, "psnr_db"), **style)
        if not name.startswith("ratio"):
            sent.plot(*_over_time(clip, name, GREEDY, "actual_ratio"), **style)
    for rule, colour in COLOURS.items():
        rules.plot(*_over_time(clip, COMPARED, rule, "psnr_db"), color=colour, label=rule, linewidth=1.2)
    for axes, title in ((settings, "greedy"), (rules, COMPARED)):
        axes.axhline(psnr_db, color=INK, linestyle=":", linewidth=1)
        axes.set(ylabel="PSNR of the canvas, dB")
        axes.set_title(title, loc="left", fontsize=10)
    sent.set(ylabel="patches sent", ylim=(0, 1.04), xlabel="time, s")
    sent.set_title("greedy", loc="left", fontsize=10)
    sent.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for axes in (settings, rules, sent):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.suptitle(f"{plain(clip.name)}; dotted: target", x=0.01, ha="left", fontsize=10)
    return save_figure(figure, file)


def _over_time(clip: ClipGaze, setting: str, rule: str, key: str) -> tuple[list[float], npt.NDArray[np.float64]]:
    rows = [row for row in clip.rows if (row["setting"], row["rule"]) == (setting, rule)]
    values = np.array([row[key] for row in rows])
    if key == "psnr_db":
        values[values >= EXACT_DB] = np.nan  # an exact canvas has no place on the scale
    return [row["stamp_s"] for row in rows], values


def draw_heat(clip: ClipGaze, tokens: int, file: Path) -> Path:
    """Draw how often our rule sent each patch of a clip, each setting on its own scale, beside one of its pictures."""
    names, grid = list(SETTING_COLOURS), round(tokens**0.5)
    figure = new_figure(2.3 * (len(names) + 1) + 0.9, 3.05)
    panels = figure.subplots(1, len(names) + 1)
    panels[0].imshow(clip.moments[len(clip.moments) // 2].original)
    panels[0].set_title(f"{plain(clip.name)}\n", fontsize=9)
    for axes, name in zip(panels[1:], names, strict=True):
        share = clip.sent[name, GREEDY].reshape(grid, grid) / clip.tubelets  # (rows, columns)
        shown = axes.imshow(share / share.max(), cmap="magma", vmin=0, vmax=1)
        axes.set_title(f"{name}\nmean {share.mean():.0%}, most {share.max():.0%}", fontsize=9)
    for axes in panels:
        axes.set(xticks=(), yticks=())
    scale = figure.colorbar(shown, ax=panels, ticks=(0, 1), shrink=0.75, aspect=12)
    scale.ax.set_yticklabels(("never sent", "most sent"), fontsize=9)
    return save_figure(figure, file)


def draw_grid(clip: ClipGaze, setting: str, patch_size: int, file: Path) -> Path:
    """Draw moments of a clip: the original, the patches our rule sent, and the canvas of each rule."""
    heads = ["original", "patches sent, greedy", *(f"canvas, {rule}" for rule in RULES)]
    columns = [_column(moment, setting, patch_size) for moment in clip.moments]
    (rows, side), count = (len(heads), columns[0][0].shape[0]), len(columns)
    figure = new_figure(1.7 * count + 1.2, 1.75 * rows + 0.6)
    axes = figure.subplots()
    axes.imshow(_tiled(columns), interpolation="antialiased")
    centres = side / 2 + (side + GAP) * np.arange(max(rows, count))
    axes.set_xticks(centres[:count], [_label(moment, setting) for moment in clip.moments], fontsize=9)
    axes.set_yticks(centres[:rows], heads, fontsize=9, rotation=90, va="center")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{plain(clip.name)}, {setting}; below, PSNR in dB: {' / '.join(RULES)}", loc="left", fontsize=10)
    return save_figure(figure, file)


def _column(moment: Moment, setting: str, patch_size: int) -> list[Picture]:
    return [
        moment.original,
        _only_sent(moment, setting, patch_size),
        *(moment.shown[setting, rule] for rule in RULES),
    ]


def _only_sent(moment: Moment, setting: str, patch_size: int) -> Picture:
    """Show the patches that were sent of a moment, and grey elsewhere."""
    grid = len(moment.original) // patch_size
    sent_mask = np.zeros(grid * grid, bool)
    sent_mask[moment.sent[setting, GREEDY]] = True
    by_pixel = np.kron(sent_mask.reshape(grid, grid), np.ones((patch_size, patch_size), bool))  # (H, W)
    return np.where(by_pixel[..., None], moment.original, NOT_SENT).astype(np.uint8)


def _tiled(columns: Sequence[Sequence[Picture]]) -> Picture:
    """One picture of columns of pictures of the same size, with white gaps."""
    padded = [[np.pad(p, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for p in column] for column in columns]
    return np.hstack([np.vstack(column) for column in padded])[:-GAP, :-GAP]


def _label(moment: Moment, setting: str) -> str:
    """Time, patches sent, and the PSNR of each rule's canvas."""
    rows = [moment.rows[setting, rule] for rule in RULES]
    found = " / ".join("exact" if row["psnr_db"] >= EXACT_DB else f"{row['psnr_db']:.1f}" for row in rows)
    return f"{rows[0]['stamp_s']:.1f} s, {rows[0]['tokens']} patches\n{found}"
