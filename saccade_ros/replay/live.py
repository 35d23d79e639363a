"""Live view of a replay on a terminal: one line that renews itself, or plain lines in a log; then totals."""

import math
import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from saccade_ros.default_model import advice
from saccade_ros.replay.recording import Recording, percentile
from saccade_ros.replay.trial import Trial

_EVERY_S = 1.0
_RECENT = 100  # tubelets that the live latency is the median of


class LiveView:
    """View used as `with LiveView(duration_s) as view:`: `view.update(...)` often, `view.finish(...)` at the end."""

    def __init__(self, duration_s: float | None = None, console: Console | None = None) -> None:
        self._duration_s = duration_s
        self._console = console or Console()
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._next_s = -math.inf

    def __enter__(self) -> "LiveView":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def update(self, recording: Recording, elapsed_s: float) -> None:
        """Show how far it is, at most once a second."""
        now = time.monotonic()
        if now < self._next_s:
            return
        self._next_s = now + _EVERY_S
        line = progress_line(recording, elapsed_s, self._duration_s)
        if self._console.is_terminal:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
        else:
            self._console.print(line, soft_wrap=True, highlight=False, markup=False)

    def finish(self, recording: Recording) -> None:
        """Print the totals."""
        self._live.stop()
        self._console.print(totals_table(recording))


def progress_line(recording: Recording, elapsed_s: float, duration_s: float | None) -> str:
    """Summarize in one line what has happened so far."""
    rows, totals, encoded = recording.rows, recording.totals, recording.encoded
    novelty = rows[-1].novelty if rows else math.nan
    latency = percentile((row.total_ms for row in rows[-_RECENT:]), 50)
    return "  ".join(
        (
            f"{elapsed_s:.0f}/{duration_s:.0f} s" if duration_s else f"{elapsed_s:.0f} s",
            f"frames {totals.frames_in}",
            f"tubelets {len(rows)}",
            f"encoded {encoded}",
            f"skipped {len(rows) - encoded}",
            f"tokens {_percent(recording.computed_share)}",
            f"novelty {'-' if math.isnan(novelty) else format(novelty, '.3f')}",
            f"p50 {_ms(latency)}",
            f"dropped {totals.dropped}",
        )
    )


def trial_line(trial: Trial) -> str:
    """Summarize a trial in one line."""
    classes = ", ".join(f"{name} {count}" for name, count in trial.classes.items())
    verdict = "kept up" if trial.passed else "did not keep up"
    if not trial.held:
        verdict = f"NO RESULT: the player was late by up to {trial.lateness.max_ms:.0f} ms"
    if not trial.balanced:
        verdict = f"NO RESULT: {trial.played} frames played, {trial.frames} accounted for"
    p99 = _ms(percentile(trial.end_to_end_ms, 99))
    return f"{trial.offered_hz:.1f} Hz offered, {trial.played_hz:.1f} Hz played, p99 {p99}: {classes}: {verdict}"


def totals_table(recording: Recording) -> Table:
    """Tabulate the totals."""
    summary = recording.summary()
    latency = summary["latency_ms"]
    causes = ", ".join(f"{cause} {count}" for cause, count in summary["frames_dropped"].items() if count)
    title = Text(str(recording.environment.get("source", "replay")))
    table = Table(show_header=False, title=title, caption=advice(recording.weights) or None)
    table.add_row("frames in", str(summary["frames_in"]))
    table.add_row("frames used", str(summary["frames_used"]))
    table.add_row("frames dropped", f"{recording.totals.dropped}{f' ({causes})' if causes else ''}")
    table.add_row("tubelets", str(summary["tubelets"]))
    table.add_row("encoded", f"{summary['encoded']} ({_percent(summary['encode_rate'])})")
    table.add_row("skipped", str(summary["skipped"]))
    table.add_row("tokens computed", f"{_percent(summary['computed_share'])} of those of dense encoding")
    table.add_row("published, received", f"{summary['published']}, {summary['received']}")
    table.add_row("latency p50, p95, p99", ", ".join(_ms(value) for value in latency.values()))
    table.add_row("balanced", "yes" if summary["balanced"] else Text("NO", style="bold red"))
    table.add_row("weights", Text(summary["weights"]))
    if recording.remark:
        table.add_row("remark", Text(recording.remark, style="yellow"))
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
