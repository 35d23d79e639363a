"""The budget's controller: its law by hand, and that it holds what it promises."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade_ros.config import GateConfig
from saccade_ros.knobs import settings_of
from saccade_ros.plan.threshold import (
    GIVE,
    HORIZON_S,
    MAX_GAIN,
    THRESHOLDS,
    BudgetTau,
    FixedTau,
    allowance,
    choose_threshold,
    gain,
)

S = 10**9


def budget(**settings_: object) -> GateConfig:
    return GateConfig(**{"mode": "budget", "tau": 0.2, "tau_min": 0.03, "tau_max": 10.0, **settings_})


def drive(config: GateConfig, novelty: np.ndarray, fps: float) -> tuple[np.ndarray, np.ndarray]:
    """Which of these tubelets are encoded, and tau at each. Novelty is given, whatever was encoded."""
    threshold, encoded, taus = BudgetTau(config), [], []
    for t, value in enumerate(novelty):
        taus.append(threshold.tau(config))
        encoded.append(bool(value >= taus[-1]))
        threshold.record(config, encoded[-1], round(t / fps * S))
    return np.array(encoded), np.array(taus)


def test_allowance_is_the_share_or_the_rate_times_the_interval():
    assert allowance(budget(budget_fraction=0.2), elapsed_s=0.5) == 0.2
    assert allowance(budget(budget_hz=0.5), elapsed_s=0.5) == 0.25
    assert allowance(budget(budget_hz=10.0), elapsed_s=0.5) == 1.0


def test_gain_follows_from_the_promise():
    encodes = 0.25 * HORIZON_S / 0.1
    assert gain(budget(budget_fraction=0.25), period_s=0.1) == pytest.approx(1 / (GIVE * encodes))
    assert gain(budget(budget_fraction=0.01), period_s=0.5) == MAX_GAIN


def test_one_encode_raises_tau_and_each_tubelet_lowers_it():
    config = budget(budget_fraction=0.25, tau=0.3)
    threshold, step = BudgetTau(config), gain(config, 0.1)
    threshold.record(config, True, 0)  # starts the clock
    assert threshold.tau(config) == pytest.approx(0.3)
    threshold.record(config, True, S // 10)
    assert threshold.tau(config) == pytest.approx(0.3 * math.exp(0.75 * step))
    threshold.record(config, False, S // 5)
    assert threshold.tau(config) == pytest.approx(0.3 * math.exp(0.5 * step))


@pytest.mark.parametrize("fps", [5.0, 12.5])
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_fraction_is_held_within_a_tenth_over_any_thirty_seconds(fps, fraction):
    rng = np.random.default_rng(1)
    novelty = 0.2 * rng.lognormal(0, 0.5, 1500)
    encoded, _ = drive(budget(budget_fraction=fraction), novelty, fps)
    width = round(HORIZON_S * fps)
    rates = np.convolve(encoded[width:], np.ones(width) / width, mode="valid")
    assert np.abs(rates / fraction - 1).max() < 0.1


def test_rate_is_held_at_irregular_intervals():
    rng, config = np.random.default_rng(2), budget(budget_hz=1.0)
    threshold, stamps_s = BudgetTau(config), np.cumsum(rng.uniform(0.1, 0.4, 1200))
    encoded = []
    for stamp_s in stamps_s:
        encoded.append(rng.lognormal(-1.5, 0.5) >= threshold.tau(config))
        threshold.record(config, encoded[-1], round(stamp_s * S))
    late = stamps_s > 60
    assert np.array(encoded)[late].sum() / np.ptp(stamps_s[late]) == pytest.approx(1.0, rel=0.05)


def test_change_of_scene_is_followed_within_the_promise():
    """Novelty grows fivefold at once; over each 30 s about it the budget is exceeded by less than a tenth."""
    rng = np.random.default_rng(3)
    novelty = 0.1 * rng.lognormal(0, 0.4, 1500)
    novelty[750:] *= 5
    encoded, _ = drive(budget(budget_fraction=0.3), novelty, fps=12.5)
    rates = np.convolve(encoded[375:], np.ones(375) / 375, mode="valid")
    assert np.abs(rates / 0.3 - 1).max() < 0.1


def test_tau_does_not_oscillate():
    """On steady novelty tau stays within a narrow band, and its swings do not grow."""
    novelty = 0.2 * np.random.default_rng(4).lognormal(0, 0.5, 4000)
    _, taus = drive(budget(budget_fraction=0.25), novelty, fps=12.5)
    early, late = np.log(taus[500:2000]), np.log(taus[2500:])
    assert late.std() < 0.4
    assert late.std() < 1.3 * early.std()


def test_calm_holds_the_lower_clamp_and_does_not_wind_up():
    config = budget(budget_fraction=0.25, tau_min=0.05)
    calm, busy = np.zeros(5000), np.full(400, 1.0)
    encoded, taus = drive(config, np.concatenate((calm, busy)), fps=12.5)
    assert not encoded[:5000].any()
    assert taus[4999] == pytest.approx(0.05)
    assert encoded[5000:5375].mean() < 0.25 * 1.4, "an hour of calm is not saved up"


def test_storm_holds_the_upper_clamp_and_lets_go_at_once():
    config = budget(budget_fraction=0.1, tau_max=2.0)
    encoded, taus = drive(config, np.concatenate((np.full(2000, 9.0), np.full(300, 1.0))), fps=12.5)
    assert encoded[1000:2000].all(), "the clamp wins over the budget"
    assert taus[2000] == pytest.approx(2.0)
    assert encoded[2000:].any()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 20), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_tau_is_always_between_the_clamps_and_the_law_holds(novelty, fraction):
    """Encodes exceed the budget by the change of log tau over the gain, exactly, while no clamp holds."""
    config = budget(budget_fraction=fraction, tau_min=1e-6, tau_max=1000.0)
    encoded, taus = drive(config, np.array([*novelty, 0.0]), fps=10.0)
    assert ((taus >= config.tau_min) & (taus <= config.tau_max)).all()
    if (taus > 2e-6).all() and (taus < 900).all():
        excess = encoded[1:-1].sum() - fraction * (len(taus) - 2)
        assert math.log(taus[-1] / taus[0]) == pytest.approx(gain(config, 0.1) * excess, abs=1e-6)


def test_state_says_what_is_used_and_which_clamp_holds():
    config = budget(budget_fraction=0.5)
    threshold = BudgetTau(config)
    for t in range(5):
        threshold.record(config, t % 4 == 0, t * S)
    state = threshold.state(config)
    assert (state["mode"], state["clamp"]) == ("budget", "none")
    assert (state["budget_encoded_fraction"], state["budget_allowed_fraction"], state["budget_use"]) == (0.25, 0.5, 0.5)


def test_jump_back_in_time_starts_the_clock_again():
    config = budget()
    threshold = BudgetTau(config)
    for stamp in (10 * S, 11 * S, S, 2 * S):
        threshold.record(config, False, stamp)
    assert threshold.state(config)["budget_encoded_fraction"] == 0.0
    assert threshold.tau(config) < config.tau


@pytest.mark.parametrize("pause_s", [10, 60, 86_400])
def test_pause_of_the_stream_moves_tau_no_further_than_a_tubelet_does(pause_s):
    config, rng = budget(), np.random.default_rng(0)
    novelty, threshold, taus = 0.2 * rng.lognormal(0, 0.5, 1000), BudgetTau(config), []
    for t, value in enumerate(novelty):
        if t == 500:
            threshold.restart()
        taus.append(threshold.tau(config))
        threshold.record(config, bool(value >= taus[-1]), round(t * 0.08 * S) + (t >= 500) * pause_s * S)
    moves = np.abs(np.diff(np.log(taus)))
    assert moves[500:].max() <= moves[100:500].max() * 1.01


def test_first_encode_after_a_restart_counts_against_the_budget():
    config = budget(budget_fraction=0.25)
    threshold = BudgetTau(config)
    for stamp in (0, S // 10, S // 5):
        threshold.record(config, False, stamp)
    before = threshold.tau(config)
    threshold.restart()
    threshold.record(config, True, 0)
    assert threshold.tau(config) == pytest.approx(before * math.exp(0.75 * gain(config, 0.1)))


def test_fixed_mode_is_tau_as_it_is():
    config = GateConfig(tau=0.7)
    threshold = choose_threshold(config)
    assert isinstance(threshold, FixedTau)
    threshold.record(config, True, 0)
    assert threshold.tau(config) == 0.7
    assert threshold.state(config) == {"mode": "fixed", "tau": 0.7}


def test_every_mode_has_its_threshold():
    (mode,) = (setting for setting in settings_of(GateConfig) if setting.name == "mode")
    assert tuple(THRESHOLDS) == mode.knob.choices
