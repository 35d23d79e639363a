"""Progress of a job that is part of a larger one."""

from collections.abc import Callable

Share = Callable[[float], None]  # told how much is done, 0 to 1


def within(progress: Share, start: float, span: float) -> Share:
    """What a part reports to, if it takes `span` of the whole from `start` on."""
    return lambda share: progress(start + span * share)
