"""Onset of events: the first tubelet of lasting novelty."""

QUIET_NS = 1_000_000_000  # without novelty, between two events


def schmitt_trigger(on: bool, novelty: float, tau: float, hysteresis: float) -> bool:
    """Switch on at tau, and off only below `hysteresis` of tau.

    Novelty that trembles about tau is then one event and not many. NaN (nothing measured) leaves the state as it is.
    """
    if novelty >= tau:
        return True
    return on and not novelty < hysteresis * tau


class OnsetDetector:
    """Detector of the first tubelet of each event.

    The gate measures against the last encoded tubelet, so its novelty falls back to nothing each time it opens. An
    event is over only after QUIET_NS without novelty, and so a pan that opens the gate twice a second is one event.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the event that is going on."""
        self._on = False
        self._last_on_ns: int | None = None

    def detect(self, novelty: float, tau: float, hysteresis: float, stamp_ns: int) -> bool:
        """Take the next tubelet; return True if it is the first of an event."""
        self._on = schmitt_trigger(self._on, novelty, tau, hysteresis)
        if not self._on:
            return False
        last_ns, self._last_on_ns = self._last_on_ns, stamp_ns
        return last_ns is None or stamp_ns - last_ns > QUIET_NS
