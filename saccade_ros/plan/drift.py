"""Change that is too small to be news but does not go away, and the onset of change that is."""


def accumulate_drift(drift: float, novelty: float, tau: float, allowance: float) -> float:
    """One step of a one-sided CUSUM (Page, "Continuous inspection schemes", Biometrika 1954).

    What exceeds `allowance` of tau adds up, in units of tau; what falls short of it is taken off, down to zero.

    Args:
        drift: the sum so far, 0 after an encoded tubelet.
        novelty, tau: of this tubelet; with tau 0 everything is encoded and nothing drifts.
        allowance: share of tau that may last for ever.
    """
    return max(0.0, drift + novelty / tau - allowance) if tau else 0.0


def is_excited(excited: bool, novelty: float, tau: float, hysteresis: float) -> bool:
    """A Schmitt trigger: on from tau, off only below `hysteresis` of tau. So novelty that trembles about tau is one
    event and not many. NaN (nothing measured) leaves it as it is."""
    if novelty >= tau:
        return True
    return excited and not novelty < hysteresis * tau


class OnsetDetector:
    """Says once when something new begins.

    The gate measures against the last encoded tubelet, so its novelty falls back to nothing each time it opens. An
    event is over only after `quiet_ns` of calm, and so a pan that opens the gate twice a second is one event.
    """

    def __init__(self, quiet_ns: int) -> None:
        self._quiet_ns = quiet_ns
        self.reset()

    def reset(self) -> None:
        """Forget the event that is going on."""
        self._excited = False
        self._last_excited_ns: int | None = None

    def sees_onset(self, novelty: float, tau: float, hysteresis: float, stamp_ns: int) -> bool:
        """Is this tubelet the first of an event?"""
        self._excited = is_excited(self._excited, novelty, tau, hysteresis)
        if not self._excited:
            return False
        last, self._last_excited_ns = self._last_excited_ns, stamp_ns
        return last is None or stamp_ns - last > self._quiet_ns
