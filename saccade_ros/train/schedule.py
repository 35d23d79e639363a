"""Learning rate over a training."""

import math


def warm_cosine(step: int, steps: int, warm_up: int) -> float:
    """Compute the fraction of the highest learning rate: linear warm-up, then half a cosine to zero."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
