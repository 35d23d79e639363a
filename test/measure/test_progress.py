"""Parts of a whole, and the bar in a terminal."""

import io
import math

import pytest
from rich.console import Console

from saccade_ros.measure.progress import ProgressBar, silent, subrange


def test_part_counts_as_its_span_of_the_whole():
    told: list[tuple[str, float]] = []
    part = subrange(lambda *told_now: told.append(told_now), 0.4, 0.2)
    part("reading", 0.0)
    subrange(part, 0.5, 0.5, "writing")("in detail", 1.0)
    assert told == [("reading", 0.4), ("writing", pytest.approx(0.6))]


def test_what_is_unknown_stays_unknown():
    told: list[float] = []
    subrange(lambda _, fraction: told.append(fraction), 0.4, 0.2)("reading", math.nan)
    assert math.isnan(told[0])


def test_silent_takes_anything():
    silent("work", math.nan)


def test_bar_shows_what_is_done_and_how_much():
    screen = io.StringIO()
    with ProgressBar(Console(file=screen, force_terminal=True, width=100)) as progress:
        progress("loading", math.nan)
        progress("encoding", 0.5)
        progress("encoding more", math.nan)
    shown = screen.getvalue()
    assert "encoding more" in shown
    assert "50%" in shown
