"""Threshold of novelty: a fixed tau, or one that holds a budget of encodes.

The budget's controller is an integral one on log tau: each encoded tubelet raises it, the encodes that the budget
allows each tubelet lower it. A sparse step spends the share of an encode that its tokens are of all. Between two
moments the encodes exceed the budget by exactly (change of log tau) / gain, as long as no clamp holds. So the gain
follows from the promise: one e-fold of tau costs GIVE of the encodes of HORIZON_S seconds. The integrator is the
clamped log tau itself; it cannot wind up beyond the clamps.
"""

import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

from saccade_ros.config import GateConfig
from saccade_ros.frames import Figures

HORIZON_S = 30.0
GIVE = 0.04
MAX_GAIN = 2.0  # with fewer than a dozen encodes per horizon tau would only jump
PERIOD_RATE = 0.1  # weight of the newest interval in the running mean of the tubelets' period


class Threshold(Protocol):
    """Source of tau, by gate.mode."""

    def tau(self, config: GateConfig) -> float:
        """Give the value that the next tubelet's novelty is compared with."""
        ...

    def record(self, config: GateConfig, spent: float, stamp_ns: int) -> None:
        """Take note of a tubelet and of the share of its tokens that was computed: 0 for a reused embedding."""
        ...

    def restart(self) -> None:
        """Start the stream afresh: the time until its next tubelet is no interval between tubelets."""
        ...

    def state(self, config: GateConfig) -> Figures:
        """Report figures for diagnostics and the report, from any thread."""
        ...


class FixedTau:
    """Threshold that is gate.tau as it is."""

    def tau(self, config: GateConfig) -> float:
        """Give gate.tau."""
        return config.tau

    def record(self, config: GateConfig, spent: float, stamp_ns: int) -> None:
        """Note nothing."""

    def restart(self) -> None:
        """Forget nothing."""

    def state(self, config: GateConfig) -> Figures:
        """Report tau."""
        return {"mode": "fixed", "tau": config.tau}


class BudgetTau:
    """Threshold moved so that the fraction of tubelets encoded, or the encodes per second of header time, is held."""

    def __init__(self, config: GateConfig) -> None:
        self._log_tau = math.log(max(config.tau, config.tau_min))
        self._period_s: float | None = None
        self._last_ns: int | None = None
        self._recent: deque[tuple[int, float, float]] = deque()  # stamp, encodes spent and allowed; of HORIZON_S

    def tau(self, config: GateConfig) -> float:
        """Give the present tau, between gate.tau_min and gate.tau_max."""
        return min(max(math.exp(self._log_tau), config.tau_min), config.tau_max)

    def record(self, config: GateConfig, spent: float, stamp_ns: int) -> None:
        """Move tau. The first tubelet of all, or one after a jump of time, only starts the clock."""
        elapsed_s = self._period_s or 0.0  # of a stream that started afresh
        if self._last_ns is not None:
            elapsed_s = (stamp_ns - self._last_ns) / 1e9
        self._last_ns = stamp_ns
        if elapsed_s <= 0:
            self._recent.clear()
            return
        period_s = self._period_s if self._period_s is not None else elapsed_s
        self._period_s = period_s + PERIOD_RATE * (elapsed_s - period_s)
        allowed = allowance(config, elapsed_s)
        moved = math.log(self.tau(config)) + gain(config, self._period_s) * (spent - allowed)
        self._log_tau = min(max(moved, math.log(config.tau_min)), math.log(config.tau_max))
        self._recent.append((stamp_ns, spent, allowed))
        while stamp_ns - self._recent[0][0] >= HORIZON_S * 1e9:
            self._recent.popleft()

    def restart(self) -> None:
        """Stop the clock: a pause in the mean period would let tau leap for a hundred tubelets."""
        self._last_ns = None
        self._recent.clear()

    def state(self, config: GateConfig) -> Figures:
        """Report tau, the use of the budget over HORIZON_S, and which clamp holds tau, if any."""
        recent = tuple(self._recent)  # a snapshot: the encoding thread appends meanwhile
        tau, count = self.tau(config), len(recent)
        clamp = "tau_min" if tau <= config.tau_min else "tau_max" if tau >= config.tau_max else "none"
        spent, allowed = sum(r[1] for r in recent), sum(r[2] for r in recent)
        return {
            "mode": "budget",
            "tau": tau,
            "clamp": clamp,
            "budget_encoded_fraction": spent / count if count else 0.0,
            "budget_allowed_fraction": allowed / count if count else 0.0,
            "budget_use": spent / allowed if allowed else 0.0,
        }


def allowance(config: GateConfig, elapsed_s: float) -> float:
    """Encodes that the budget allows a tubelet that comes `elapsed_s` after the one before; at most one."""
    return min(1.0, config.budget_hz * elapsed_s) if config.budget_hz else config.budget_fraction


def gain(config: GateConfig, period_s: float) -> float:
    """Rise of log tau for one encode, such that GIVE of a horizon's encodes move tau by a factor of e."""
    encodes = allowance(config, period_s) * HORIZON_S / period_s
    return min(MAX_GAIN, 1 / (GIVE * encodes))


# By gate.mode, whose choices are these.
THRESHOLDS: dict[str, Callable[[GateConfig], Threshold]] = {"fixed": lambda config: FixedTau(), "budget": BudgetTau}


def choose_threshold(config: GateConfig) -> Threshold:
    """Make the threshold that gate.mode names."""
    return THRESHOLDS[config.mode](config)
