"""Search for the peak: the highest rate at which the encoder keeps up, by bisection, verified three times."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from saccade_ros.replay.trial import Trial

VERIFIED = 3  # times that the peak must pass, before it has failed once more than that
TRIES = 2  # for a pass on the way: an unlucky moment of the machine makes no rate fail
LOWEST_HZ, HIGHEST_HZ = 0.05, 20_000.0


@dataclass
class PeakSearch:
    """Search by trials of `run`, which plays at a rate in Hz.

    Attributes:
        tolerance: greatest ratio, less 1, of the lowest rate that failed to the highest that passed.
        trials: made, in their order.
        peak_hz: found; None before and if no rate passed.
        remark: what limits the result; empty if nothing does.
    """

    run: Callable[[float], Trial]
    tolerance: float
    trials: list[Trial] = field(default_factory=list)
    peak_hz: float | None = None
    remark: str = ""

    def find(self, start_hz: float) -> None:
        """Find the peak, from a first guess on."""
        low, high = self._bisect(*self._bracket(start_hz))
        while low >= LOWEST_HZ and self._is_verified(high):  # it failed by bad luck
            low, high = self._bisect(*self._climb(high))
        while low >= LOWEST_HZ and not self._is_verified(low):
            low = _rounded(low / (1 + self.tolerance))
        if low >= LOWEST_HZ:
            self.peak_hz = low
        self.remark = self._explain()

    def _bracket(self, start_hz: float) -> tuple[float, float]:
        """Find a rate that passes, or is too low to be tried, and twice that, which fails."""
        if self._passes(start_hz):
            return self._climb(start_hz)
        low = start_hz / 2
        while low >= LOWEST_HZ and not self._passes(low):
            low /= 2
        return low, 2 * low

    def _climb(self, low: float) -> tuple[float, float]:
        """Double a rate that passes until it fails, or is too high to be tried."""
        while self._passes(2 * low):
            low *= 2
        return low, 2 * low

    def _bisect(self, low: float, high: float) -> tuple[float, float]:
        """Narrow the range between a rate that passes and one that fails."""
        while low >= LOWEST_HZ and high / low > 1 + self.tolerance:
            middle = _rounded(math.sqrt(low * high))
            low, high = (middle, high) if self._passes(middle) else (low, middle)
        return low, high

    def _passes(self, hz: float) -> bool:
        return hz <= HIGHEST_HZ and any(self._try(hz) for _ in range(TRIES))

    def _is_verified(self, hz: float) -> bool:
        """Tell whether a rate passes rather than fails: near the peak a trial does either, by luck."""
        passed = failed = 0
        while hz <= HIGHEST_HZ and passed < VERIFIED and failed <= VERIFIED:
            if self._try(hz):
                passed += 1
            else:
                failed += 1
        return passed == VERIFIED

    def _try(self, hz: float) -> bool:
        trial = self.run(hz)
        self.trials.append(trial)
        return trial.passed and trial.held and trial.balanced

    def _explain(self) -> str:
        """Say what limits the result."""
        if self.peak_hz is None:
            return f"no rate passed, down to {LOWEST_HZ} Hz: see what became of the frames"
        above = [trial for trial in self.trials if trial.offered_hz > self.peak_hz]
        if above and not any(trial.held for trial in above):
            return f"above {self.peak_hz:.1f} Hz the player could not hold its rate: the encoder's peak may be higher"
        return ""


def _rounded(hz: float) -> float:
    """Round to six digits: one rate that is come to in two ways would else be two, apart by the last bit."""
    return float(f"{hz:.6g}")
