"""Scale of one stream's predicted losses, corrected by those that are found."""

import math

RATE = 0.3  # weight of the newest answer
STEP = 1.0  # most that one answer counts, in e-folds: single answers scatter
LIMIT = 4.0  # factor between the scale and 1, either way
LEAST = 1e-4  # losses and expectations below are rounding and noise, and say nothing of their ratio


class LossScale:
    """Running median, roughly, of the loss found over the loss expected.

    Attributes:
        factor: to multiply expectations by.
        answers: losses found so far.
    """

    def __init__(self) -> None:
        self.factor, self.answers = 1.0, 0

    def learn(self, expected: float, found: float) -> None:
        """Move towards found / expected. NaN, of either, and expectations of nothing teach nothing."""
        if not expected > LEAST or math.isnan(found):
            return
        off = math.log(max(found, LEAST) / (expected * self.factor))
        moved = math.log(self.factor) + RATE * min(max(off, -STEP), STEP)
        self.factor = math.exp(min(max(moved, -math.log(LIMIT)), math.log(LIMIT)))
        self.answers += 1

    @property
    def is_at_upper_limit(self) -> bool:
        """True where reuse costs more than may be corrected: the prediction was fitted to something else."""
        return self.factor >= LIMIT * (1 - 1e-9)
