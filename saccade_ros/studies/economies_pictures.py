"""Table and picture of the economies study."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from saccade_ros.studies.plots import BLUE, GREEN, GREY, INK, ORANGE, RED, new_figure, save_figure

PURPLE, SKY = "#cc79a7", "#56b4e9"
FAMILIES = {
    "dense": INK,
    "selection": BLUE,
    "combined": SKY,
    "gate": ORANGE,
    "KV-only reuse": RED,
    "merging": GREEN,
    "areas": PURPLE,
    "int8": GREY,
}


def table(record: dict[str, Any]) -> RenderableType:
    """Tabulate a row per variant, and say what the columns are."""
    clips = ", ".join(f"{clip['name']} ({clip['tubelets']})" for clip in record["clips"])
    title = f"{record['model']}, window {record['window']}, {record['precision']}, {record['threads']} threads: {clips}"
    found = Table(title=title, box=None, padding=(0, 1, 0, 0), header_style="bold")
    found.add_column("variant", no_wrap=True)
    for column in ("share\n%", "p50\nms", "p95\nms", "\nGFLOP", "ring\nMB", "\nmean", "\np5", "\nworst", "\nstill"):
        found.add_column(column, justify="right", no_wrap=True)
    found.add_column("age\ns", justify="right", no_wrap=True)
    for row in record["rows"]:
        cost = f"{100 * row['share']:.1f}", *(_ms(row[key]) for key in ("ms_p50", "ms_p95")), f"{row['gflop']:.3f}"
        cosines = (f"{row[key]:.3f}" for key in ("mean", "p5", "worst", "stability"))
        found.add_row(row["name"], *cost, f"{row['cache_bytes'] / 1e6:.1f}", *cosines, f"{row['worst_age_s']:.1f}")
    return Group(found, *(Text(line, style="dim") for line in _footnotes(record)))


def _ms(time_ms: float) -> str:
    return f"{time_ms:.1f}" if time_ms < 100 else f"{time_ms:.0f}"


def _footnotes(record: dict[str, Any]) -> list[str]:
    first, last = (row["ms_p50"] for row in (record["rows"][0], record["rows"][-1]))
    return [
        "  share: tokens computed, mean over the clips. ms: of the step, without patch",
        "  embedding and planning; 0 where the embedding is reused. mean: centred cosine to",
        "  dense; p5 and worst: of the worst clip. still: change from step to step in a",
        "  static scene with noise, over the centred length. age: of the oldest token",
        "  as changed: as many tokens as `changed` computes. Reuse of keys and values alone",
        f"  can make this step at most {record['kv_bound']:.2f}x as fast",
        f"  dense took {last / first:.2f} times as long when measured again",
        *(f"  left out: {name}: {reason}" for name, reason in record["left_out"].items()),
        f"  {record['weights']}; {record['machine']}",
    ]


def draw(record: dict[str, Any], file: Path) -> Path:
    """Draw time against fidelity, a panel for each clip, dense at 100 %."""
    names = [clip["name"] for clip in record["clips"]]
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(6 * columns, 0.9 + 3.9 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        _draw_clip(axes, record["rows"], name)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    panels[0].legend(frameon=False, fontsize=8, loc="lower right")
    about = f"{record['weights']}, window {record['window']}, {record['precision']}, {record['threads']} threads"
    line = "line: the best p5 for a time or less; open: gates"
    figure.suptitle("\n".join(textwrap.wrap(f"{about}; {line}", 110)), x=0.01, ha="left", fontsize=9)
    return save_figure(figure, file)


def _draw_clip(axes: Axes, rows: Sequence[dict[str, Any]], name: str) -> None:
    dense_ms = rows[0]["clips"][name]["ms_mean"]
    points = {row["name"]: (100 * row["clips"][name]["ms_mean"] / dense_ms, row["clips"][name]["p5"]) for row in rows}
    for family, colour in FAMILIES.items():
        of_family = [points[row["name"]] for row in rows if row["family"] == family]
        axes.plot(*zip(*of_family, strict=True), "o", color=colour, markersize=6, label=family)
    best = front(list(points.values()))
    axes.step(*zip(*best, strict=True), where="post", color=INK, linewidth=1, alpha=0.5, zorder=1)
    axes.set(xlabel="time of the step, % of dense, mean", ylabel="p5 of the centred cosine to dense")
    axes.set_title(name, fontsize=10, loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Choose the points, of cost and worth, that no other beats in both: ascending."""
    best: list[tuple[float, float]] = []
    for cost, worth in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or worth > best[-1][1]:
            best.append((cost, worth))
    return best
