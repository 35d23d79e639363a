"""Onset of events: the first tubelet of lasting change."""

from saccade_ros.config import GateConfig

QUIET_NS = 1_000_000_000  # without change, between two events


def schmitt_trigger(on: bool, change: float, threshold: float, hysteresis: float) -> bool:
    """Switch on at the threshold, and off only below `hysteresis` of it.

    Change that trembles about the threshold is then one event and not many.
    """
    return change >= threshold or (on and not change < hysteresis * threshold)


class OnsetDetector:
    """Detector of the first tubelet of each event.

    The gate measures against the last encoded tubelet, so that change falls back to nothing each time it opens. An
    event is over only after QUIET_NS without change, and so a pan that opens the gate twice a second is one event.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the event that is going on."""
        self._on = self._on_proposed = False
        self._last_on_ns: int | None = None
        self._last_on_proposed_ns: int | None = None

    def propose(self, change: float, config: GateConfig, stamp_ns: int) -> bool:
        """Tell whether the next tubelet is the first of an event. Changes nothing that is remembered."""
        self._on_proposed = schmitt_trigger(self._on, change, config.event_change, config.hysteresis)
        self._last_on_proposed_ns = stamp_ns if self._on_proposed else self._last_on_ns
        quiet = self._last_on_ns is None or stamp_ns - self._last_on_ns > QUIET_NS
        return self._on_proposed and quiet

    def commit(self) -> None:
        """Remember the tubelet proposed last."""
        self._on, self._last_on_ns = self._on_proposed, self._last_on_proposed_ns
