"""Findings of `saccade doctor`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of the screen.

    Attributes:
        state: "ok", "missing" (something optional is not there) or "broken" (it is there and does not work).
        remedy: what to do about it; empty if nothing needs doing.
    """

    name: str
    state: str
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Findings:
    """All findings on a machine, in the screen's order.

    Attributes:
        can_run: frames can be decoded and at least one runtime can encode them.
    """

    lines: tuple[Finding, ...]
    can_run: bool
