"""Table and picture of the economies study."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter
from matplotlib.transforms import Bbox
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from saccade_ros.measure.figures import plain
from saccade_ros.studies.plots import BLUE, GREEN, GREY, INK, ORANGE, RED, new_figure, save_figure

TICKS = (0.2, 0.5, 0.7, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 1.0)
PLACES = [(x, y) for y in (6, -6, 14, -14, 22, -22, 30, -30) for x in (5, -5)]  # of a name, in points from its point
LEAST = 1e-3  # what a cosine lacks that counts as 1 in the picture
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
    times, cosines = ("p50\nms", "p95\nms", "time\n%"), ("\nmean", "\np5", "\nworst", "\nstill")
    for column in ("share\n%", *times, "G\nFLOP", "ring\nMB", *cosines, "age\ns"):
        found.add_column(column, justify="right", no_wrap=True)
    for row in record["rows"]:
        took = *(_ms(row[key]) for key in ("ms_p50", "ms_p95")), f"{100 * row['time_to_dense']:.0f}"
        cost = f"{row['gflop']:.2f}", f"{row['cache_bytes'] / 1e6:.1f}"
        figures = (f"{row[key]:.3f}".replace("0.", ".", 1) for key in ("mean", "p5", "worst", "stability"))
        found.add_row(row["name"], f"{100 * row['share']:.1f}", *took, *cost, *figures, f"{row['worst_age_s']:.1f}")
    return Group(found, *(Text(line, style="dim") for line in _footnotes(record)))


def _ms(time_ms: float) -> str:
    return f"{time_ms:.1f}" if time_ms < 100 else f"{time_ms:.0f}"


def _footnotes(record: dict[str, Any]) -> list[str]:
    first, last = (row["ms_p50"] for row in (record["rows"][0], record["rows"][-1]))
    return [
        "  share: tokens computed, mean over the clips. ms: of the step, without patch",
        "  embedding and planning; 0 where the embedding is reused. time: a clip's mean",
        "  over that of the dense variant it took turns with, median of the clips",
        "  mean: centred cosine to dense; p5, worst: of the worst clip. still: change",
        "  from step to step in a static scene with noise, over the centred length. age:",
        "  of the oldest token. as changed: as many tokens as `changed` computes",
        f"  reuse of keys and values alone makes this step at most {record['kv_bound']:.2f}x as fast",
        f"  dense took {last / first:.2f} times as long when measured again",
        *(f"  left out: {name}: {reason}" for name, reason in record["left_out"].items()),
        f"  {record['weights']}; {record['machine']}",
    ]


def draw(record: dict[str, Any], file: Path) -> Path:
    """Draw arithmetic and time against fidelity, dense at 100 %."""
    figure = new_figure(12, 5.6)
    panels = figure.subplots(1, 2, sharey=True)
    dense = record["rows"][0]["gflop"]
    arithmetic = [100 * row["gflop"] / dense for row in record["rows"]]
    _draw_panel(panels[0], record["rows"], arithmetic, "arithmetic of a tubelet, mean, % of dense")
    times = [100 * row["time_to_dense"] for row in record["rows"]]
    _draw_panel(panels[1], record["rows"], times, "time of the step, mean, % of dense in the same turns")
    panels[0].set_ylabel("p5 of the centred cosine to dense, on the worst clip")
    panels[0].set_yticks([_height(p5) for p5 in TICKS], [f"{p5:g}" for p5 in TICKS])
    panels[1].set_xscale("log")  # int8 may be far slower
    panels[1].xaxis.set_major_formatter(ScalarFormatter())
    panels[1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[1].xaxis.set_minor_locator(NullLocator())
    panels[1].legend(frameon=False, fontsize=8, loc="lower right")
    for axes, costs in zip(panels, (arithmetic, times), strict=True):
        _label(axes, record["rows"], costs)
    clips = ", ".join(clip["name"] for clip in record["clips"])
    about = f"{record['weights']}, window {record['window']}, {record['precision']}, {record['threads']} threads"
    figure.suptitle(f"{plain(about)}; {plain(clips)}; line: nothing is better for less", x=0.01, ha="left", fontsize=9)
    return save_figure(figure, file)


def _draw_panel(axes: Axes, rows: Sequence[dict[str, Any]], costs: Sequence[float], label: str) -> None:
    points = [(cost, _height(row["p5"])) for cost, row in zip(costs, rows, strict=True)]
    for family, colour in FAMILIES.items():
        of_family = [point for point, row in zip(points, rows, strict=True) if row["family"] == family]
        axes.plot(*zip(*of_family, strict=True), "o", color=colour, markersize=6, label=family)
    axes.step(*zip(*front(points), strict=True), where="post", color=INK, linewidth=1, alpha=0.5, zorder=1)
    axes.set(xlabel=label)
    axes.margins(x=0.14)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _label(axes: Axes, rows: Sequence[dict[str, Any]], costs: Sequence[float]) -> None:
    """Name every point, each at the first place near it where no name stands yet, or else at the last."""
    taken: list[Bbox] = []
    for cost, row in zip(costs, rows, strict=True):
        point = cost, _height(row["p5"])
        name = axes.annotate(
            row["name"], point, PLACES[0], textcoords="offset points", fontsize=6.5, color=INK, va="center"
        )
        for x, y in PLACES:
            name.set(position=(x, y), ha="left" if x > 0 else "right")
            box = name.get_window_extent()
            if box.count_overlaps(taken) == 0:
                break
        taken.append(box)


def _height(p5: float) -> float:
    """Height of a cosine in the picture: orders of magnitude of what it lacks, down to LEAST."""
    return -math.log10(max(1 - p5, LEAST))


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Choose the points, of cost and worth, that no other beats in both: ascending."""
    best: list[tuple[float, float]] = []
    for cost, worth in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or worth > best[-1][1]:
            best.append((cost, worth))
    return best
