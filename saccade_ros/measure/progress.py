"""Progress of long work: one callback type, its parts, and a bar for terminals."""

import math
from collections.abc import Callable
from typing import Any

Progress = Callable[[str, float], None]
"""Told what is being done, and the fraction of the whole that is done, 0 to 1; NaN where that is unknown."""


def silent(what: str, fraction: float) -> None:
    """Discard what is reported."""


def subrange(progress: Progress, start: float, span: float, what: str = "") -> Progress:
    """Make the Progress of a part that takes `span` of the whole from `start` on, named `what` if that is given."""
    return lambda detail, fraction: progress(what or detail, start + span * fraction)


class ProgressBar:
    """Progress that draws a bar in a terminal while its block runs: `with ProgressBar() as progress: ...`.

    Args:
        console: the rich Console to draw on; None for standard output.
    """

    def __init__(self, console: Any = None) -> None:
        from rich.progress import (  # only here: a robot that runs no long work needs none of it
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        self._bars = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)
        self._task = self._bars.add_task("starting", total=None)

    def __call__(self, what: str, fraction: float) -> None:
        if math.isnan(fraction):  # the bar stays where it is
            self._bars.update(self._task, description=what)
        else:
            self._bars.update(self._task, description=what, total=1.0, completed=fraction)

    def __enter__(self) -> "ProgressBar":
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()
