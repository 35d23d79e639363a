"""Age of a reused embedding beside the age at which those of its stream are replaced.

What the change of the patches does not show adds up with time. Even spacing, which looks at nothing, is hard to beat
for an encoder with a memory; so the longer an embedding has lasted beside the usual, the less its prediction is
trusted.
"""

import math

POWER = 0.35  # of the ratio of ages: 0 is prediction alone, 1 would be even spacing where all moves alike
RATE = 0.1  # weight of the newest age in the mean of their logarithms
LEAST_S = 1e-3  # stamps may repeat


class Ageing:
    """Ages of one stream's embeddings, in seconds of header time."""

    def __init__(self) -> None:
        self._usual_s: float | None = None
        self._encoded_ns: int | None = None

    def restart(self) -> None:
        """Forget the last embedding, but not what is usual: the next epoch is most often the same place."""
        self._encoded_ns = None

    def factor(self, stamp_ns: int) -> float:
        """Give what a prediction is multiplied by at this time: 1 up to the usual age, and while none is known."""
        age_s = self._age_s(stamp_ns)
        if age_s is None or self._usual_s is None:
            return 1.0
        return max(1.0, float((age_s / self._usual_s) ** POWER))

    def replace(self, stamp_ns: int) -> None:
        """Take note that a fresh embedding replaces the last one."""
        age_s = self._age_s(stamp_ns)
        if age_s is not None:
            usual_s = self._usual_s or age_s
            self._usual_s = usual_s * math.exp(RATE * math.log(age_s / usual_s))
        self._encoded_ns = stamp_ns

    def _age_s(self, stamp_ns: int) -> float | None:
        return None if self._encoded_ns is None else max((stamp_ns - self._encoded_ns) / 1e9, LEAST_S)
