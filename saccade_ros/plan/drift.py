"""Drift: change that does not reach tau but does not go away either."""

# A lasting change of illumination is no event, but the embedding should follow it: it drifts at this fraction of its
# size, and by no more than this fraction of tau, so that no sudden one, however large, opens the gate by itself.
ILLUMINATION_DRIFT, ILLUMINATION_DRIFT_OF_TAU = 0.2, 0.75
# Novelty saturates: two pictures that have nothing in common are no more different for being older. What a reused
# embedding loses adds up all the same, so all novelty but a tenth of tau, which noise may reach, counts as drift.
DRIFT_ALLOWANCE = 0.1


def drifting_change(novelty: float, uncompensated: float, tau: float) -> float:
    """Change of one tubelet that counts as drift: its novelty, or a part of its change of illumination if that is more.

    Args:
        novelty: compensated for illumination.
        uncompensated: novelty with the change of illumination left in.
    """
    return max(novelty, min(ILLUMINATION_DRIFT * uncompensated, ILLUMINATION_DRIFT_OF_TAU * tau))


def accumulate_drift(drift: float, change: float, tau: float) -> float:
    """Add one tubelet to a one-sided CUSUM (Page, "Continuous inspection schemes", Biometrika 1954).

    What exceeds DRIFT_ALLOWANCE of tau adds up, in units of tau; what falls short of it is taken off, down to zero.

    Args:
        drift: the sum so far, 0 after an encoded tubelet.
        change, tau: of this tubelet; with tau 0 everything is encoded and nothing drifts.
    """
    return max(0.0, drift + change / tau - DRIFT_ALLOWANCE) if tau else 0.0
