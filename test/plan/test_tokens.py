"""Token selection: rules one by one, what is added to them, and that drift stays bounded."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import PERIOD_NS, textured

from saccade_ros.backends import load_backend
from saccade_ros.config import BackendConfig, EncoderConfig, TokensConfig
from saccade_ros.frames import Observation, TokenPlan
from saccade_ros.pipeline import patch_response
from saccade_ros.plan.change import PatchResponse
from saccade_ros.plan.patch_change import COMPRESSION, PatchChange
from saccade_ros.plan.residual import psnr, residual_energy, update_canvas
from saccade_ros.plan.tokens import (
    MOST_NEW,
    REFRESH,
    REFRESH_LEAVING,
    AllTokens,
    ChangedTokens,
    TokenSelection,
    dilated,
    select_tokens,
)
from saccade_ros.vision.preprocess import normalize_all, tubelet_pixels

GRID, S, WINDOW, PATCH = 6, 36, 3, 4
DENSE_AT_FIRST = WINDOW + 1  # tubelets; with the last of them the first one, all new, leaves the window
BLIND = PatchResponse(grey=np.zeros(40, np.float32), white=0.0)
SCENE = np.eye(S, 40, dtype=np.float32)
DENSE = TokenPlan.dense(S, "change")
NO_PIXELS = np.zeros((2, 3, GRID * PATCH, GRID * PATCH), np.float32)


def seen(features: np.ndarray, tubelet: int, pixels: np.ndarray = NO_PIXELS) -> Observation:
    return Observation(features, tubelet * PERIOD_NS, pixels)


def changed(by: dict[int, float]) -> np.ndarray:
    """The scene with these patches changed by these shares of their length."""
    features = SCENE.copy()
    for patch, share in by.items():
        features[patch, 39] += share
    return features


def turned(angle: float, patch: int = 0) -> np.ndarray:
    """The scene with one patch turned: its strength stays, whatever the angle."""
    features = SCENE.copy()
    features[patch] = np.cos(angle) * features[patch] + np.sin(angle) * np.eye(40)[39]
    return features


def selection(counts: tuple[int, ...] = (), reach: int = 0, **settings: object) -> TokenSelection:
    """Nothing is ever too old, unless asked for, and one layer sees the window alone."""
    made = select_tokens(TokensConfig(**{"max_age_s": 0.0, **settings}), PatchChange(BLIND), WINDOW, reach, counts)
    assert isinstance(made, TokenSelection)
    return made


def show(tokens: TokenSelection, observation: Observation, plan: TokenPlan = DENSE) -> TokenPlan:
    """Propose and commit one tubelet."""
    plan = tokens.propose(observation, plan)
    tokens.commit(observation, plan)
    return plan


def settled(counts: tuple[int, ...] = (), **settings: object) -> tuple[TokenSelection, int]:
    """A selection for which the scene has stood still until nothing was computed any more, and the next tubelet."""
    tokens = selection(counts, **settings)
    sizes = [show(tokens, seen(SCENE, n)).size for n in range(3 * WINDOW)]
    assert sizes[-1] == 0 or settings.get("select") == "ratio"
    return tokens, len(sizes)


# Rules.

errors = st.lists(st.integers(0, 20), min_size=1, max_size=9)


@given(errors, st.integers(0, 30), st.sampled_from([1.0, 1.25, 1.5]))
def test_changed_computes_the_fewest_tokens_that_leave_no_more_than_the_threshold(error, sum_left, slack):
    """Of all choices, tried from the fewest on; times the slack."""
    threshold = min(10.0, sum_left / len(error))
    left = slack * threshold
    fewest = next(k for k in range(len(error) + 1) if sum(sorted(error)[: len(error) - k]) / len(error) <= left)
    config = TokensConfig(threshold=threshold)
    assert ChangedTokens(PatchChange(BLIND)).count(np.array(error, np.float32), config, slack) == fewest


def test_changed_computes_the_most_changed_ones():
    tokens, n = settled(threshold=0.3 / S)
    plan = tokens.propose(seen(changed({4: 0.2, 9: 0.9, 20: 0.05, 30: 0.5}), n), DENSE)
    assert {9, 30} <= set(plan.token_idx)
    assert len(plan.token_idx) == 2 + len(tokens.sample.token_idx)
    assert plan.reason == "change"


@pytest.mark.parametrize("ratio", [0.001, 0.1, 0.25, 0.5, 1.0])
def test_ratio_computes_exactly_its_share_of_the_most_changed_tokens(ratio):
    tokens, first = settled(select="ratio", ratio=ratio)
    random = np.random.default_rng(0)
    for n in range(first, first + 30):
        by = random.uniform(0.1, 1, S)
        plan = tokens.propose(seen(changed(dict(enumerate(by))), n), DENSE)
        count = max(1, round(ratio * S))
        assert plan.token_idx.tolist() == sorted(np.argsort(-by)[:count])


@pytest.mark.parametrize("psnr_db", [25.0, 35.0])
def test_error_shows_each_picture_within_its_psnr(psnr_db):
    tokens, random = selection(select="error", psnr_db=psnr_db), np.random.default_rng(0)
    picture = random.integers(0, 256, (2, GRID * PATCH, GRID * PATCH, 3)).astype(np.uint8)
    canvas, sizes = normalize_all(picture), []
    for n in range(40):
        top, left = random.integers(0, GRID * PATCH - 6, 2)
        picture[:, top : top + 6, left : left + 6] = random.integers(0, 256, (6, 6, 3))
        pixels = normalize_all(picture)
        plan = show(tokens, seen(SCENE, n, pixels))
        update_canvas(canvas, pixels, plan.token_idx, PATCH)
        left_over = residual_energy(pixels, canvas, PATCH).sum() / pixels.size
        assert psnr(float(left_over)) >= psnr_db
        sizes.append(plan.size)
    assert 0 < np.mean(sizes[DENSE_AT_FIRST:]) < S / 2


# What is added to them.


def test_everything_is_computed_until_the_window_is_full():
    """And with the tubelet that pushes out the first, of which all was new."""
    tokens = selection()
    sizes = [show(tokens, seen(SCENE, n)).size for n in range(2 * WINDOW)]
    assert sizes == [S] * DENSE_AT_FIRST + [0] * (WINDOW - 1)


@pytest.mark.parametrize("select", ["ratio", "error"])
def test_other_rules_compute_everything_until_the_window_is_full_as_well(select):
    tokens = selection(select=select)
    assert [show(tokens, seen(SCENE, n)).size for n in range(WINDOW)] == [S] * WINDOW
    assert show(tokens, seen(SCENE, WINDOW)).size == (S if select == "error" else S // 4)


def test_nothing_is_computed_where_nothing_changed():
    tokens, n = settled()
    plans = [show(tokens, seen(SCENE, n + i)) for i in range(50)]
    assert {(plan.size, plan.reason) for plan in plans} == {(0, "")}


def test_what_the_gate_shut_out_stays_out():
    tokens, n = settled()
    assert tokens.propose(seen(changed({3: 1.0}), n), TokenPlan.reuse()).size == 0


@pytest.mark.parametrize("reason", ["stale", "event"])
def test_a_stale_tubelet_and_one_in_which_an_event_begins_are_computed_whole(reason):
    tokens, n = settled()
    whole = replace(DENSE, reason=reason)
    assert tokens.propose(seen(SCENE, n), whole) is whole


@pytest.mark.parametrize("select", ["changed", "ratio", "error"])
def test_no_token_grows_older_than_the_limit(select):
    tokens, computed = selection(select=select, max_age_s=1.0), np.zeros(S, np.int64)
    ages = []
    for n in range(200):
        plan = show(tokens, seen(SCENE, n))
        ages.append((n - computed) * PERIOD_NS / 1e9)
        assert set(np.flatnonzero(ages[-1] >= 1.0)) <= set(plan.token_idx)
        computed[plan.token_idx] = n
    assert np.max(ages) == pytest.approx(1.0)


def test_the_oldest_are_refreshed_a_constant_share_on_average():
    """One patch is in motion; what else is computed was computed longest ago, and its mean number is the share."""
    tokens, computed, refreshed = selection(threshold=0.001), np.zeros(S, np.int64), []
    for n in range(400):
        plan = show(tokens, seen(turned(0.7 * n), n))
        others = np.setdiff1d(plan.token_idx, [0])
        if n >= 2 * WINDOW + 1:
            assert 0 in plan.token_idx
            kept = np.setdiff1d(np.arange(S), plan.token_idx)
            assert not len(others) or computed[others].max() <= computed[kept].min()
            assert tokens.sample.token_idx.tolist() == others.tolist()
            refreshed.append(len(others))
        computed[plan.token_idx] = n
    share = REFRESH + REFRESH_LEAVING / S
    assert np.mean(refreshed) == pytest.approx(share * S, rel=0.03)
    assert np.ptp(refreshed) <= 1
    assert np.max(n - computed) <= 1.3 / share


def test_the_sample_tells_the_ages_of_what_is_refreshed_and_kept():
    tokens, computed = selection(threshold=0.001), np.zeros(S, np.int64)
    for n in range(60):
        plan = tokens.propose(seen(turned(0.7 * n), n), DENSE)
        ages = (n - computed) * PERIOD_NS / 1e9
        kept = np.setdiff1d(np.arange(S), plan.token_idx)
        if len(tokens.sample.token_idx):
            assert tokens.sample.age_s == pytest.approx(ages[tokens.sample.token_idx].mean())
        if 0 < plan.size < S:
            assert tokens.sample.lag_s == pytest.approx(ages[kept].sum() / S)
        tokens.commit(seen(turned(0.7 * n), n), plan)
        computed[plan.token_idx] = n


def test_fixed_numbers_of_tokens_are_not_refreshed_beside():
    tokens, n = settled(select="ratio", ratio=0.25)
    assert len(tokens.sample.token_idx) == 0
    assert tokens.propose(seen(changed({3: 1.0}), n), DENSE).size == S // 4


def test_everything_is_computed_from_a_tubelet_mostly_new_until_it_has_left_the_window():
    tokens, n = settled(threshold=0.0)
    new = int(np.ceil(MOST_NEW * S))
    cut = changed(dict.fromkeys(range(new), 1.0))
    sizes = [show(tokens, seen(cut, n + i)).size for i in range(WINDOW + 3)]
    assert sizes[: WINDOW + 1] == [S] * (WINDOW + 1)
    assert max(sizes[WINDOW + 1 :]) < S


def test_a_tubelet_less_than_mostly_new_is_computed_in_part():
    """Its tokens, and as it leaves the window some of those that saw it change."""
    tokens, n = settled(threshold=0.0)
    new = int(np.ceil(MOST_NEW * S)) - 1
    part = changed(dict.fromkeys(range(new), 1.0))
    assert new <= show(tokens, seen(part, n)).size < S


def test_plans_are_widened_to_what_the_backend_computes_with_the_worst():
    """Two tokens changed too much, and a few are refreshed; the others changed less."""
    by = {4: 0.9, 9: 0.9, 20: 0.06, 30: 0.07, 31: 0.05, 32: 0.04, 33: 0.03}
    plain, n = settled(threshold=0.3 / S)
    wide, _ = settled(counts=(8, 18, S), threshold=0.3 / S)
    narrow, widened = (set(tokens.propose(seen(changed(by), n), DENSE).token_idx) for tokens in (plain, wide))
    assert {4, 9} < narrow
    others = sorted(set(range(S)) - narrow, key=lambda patch: -by.get(patch, 0.0))
    assert widened == narrow | set(others[: 8 - len(narrow)])


def test_no_bucket_is_needed_for_nothing_and_too_many_tokens_are_all():
    tokens, n = settled(counts=(4, 10, S), threshold=0.0)
    assert tokens.propose(seen(SCENE, n), DENSE).size == 0
    assert tokens.propose(seen(changed(dict.fromkeys(range(11), 0.5)), n), DENSE).size == S


@given(st.sets(st.integers(0, S - 1)), st.integers(0, GRID))
def test_dilation_takes_what_lies_within_its_steps(marked, steps):
    mask = np.zeros(S, bool)
    mask[list(marked)] = True
    place = np.array([divmod(i, GRID) for i in range(S)])
    distance = np.abs(place[:, None] - place[None]).max(axis=2)  # (S, S)
    near = [bool(mask[distance[i] <= steps].any()) for i in range(S)]
    assert dilated(mask, steps).tolist() == near


def test_neighbours_of_changed_tokens_are_computed_when_asked():
    tokens, n = settled(threshold=0.0, dilate=1)
    plan = tokens.propose(seen(changed({7: 0.9}), n), DENSE)
    assert {0, 1, 2, 6, 7, 8, 12, 13, 14} <= set(plan.token_idx)


@pytest.mark.parametrize("select", ["changed", "ratio", "error"])
def test_proposing_changes_nothing_that_is_remembered(select):
    """However often a tubelet is proposed whose step then fails."""
    plain, disturbed = (selection(select=select, threshold=0.005, max_age_s=0.5) for _ in range(2))
    random = np.random.default_rng(1)
    for n in range(60):
        for by in (3.0, 0.2, 0.0):
            pixels = random.normal(size=NO_PIXELS.shape).astype(np.float32)
            disturbed.propose(seen(changed(dict.fromkeys(range(n % S), by)), n, pixels), DENSE)
        features = changed({int(patch): 0.4 for patch in random.choice(S, 3)})
        pixels = NO_PIXELS + n // 7
        plans = [show(tokens, seen(features, n, pixels)).token_idx.tolist() for tokens in (plain, disturbed)]
        assert plans[0] == plans[1]
        assert np.array_equal(plain.sample.token_idx, disturbed.sample.token_idx)
        assert plain.sample[1:] == disturbed.sample[1:]


@pytest.mark.parametrize("select", ["changed", "ratio", "error"])
def test_reset_forgets_the_stream(select):
    (used, n), fresh = settled(select=select), selection(select=select)
    show(used, seen(changed({5: 1.0}), n))
    used.reset()
    for i in range(4 * WINDOW):
        observation = seen(turned(0.7 * i), i)
        assert show(used, observation).token_idx.tolist() == show(fresh, observation).token_idx.tolist()


def test_replaced_config_holds_from_the_next_tubelet_on():
    tokens, n = settled(threshold=10.0)
    assert tokens.propose(seen(changed({3: 0.9}), n), DENSE).size == 0
    tokens.config = TokensConfig(threshold=0.0)
    assert 3 in tokens.propose(seen(changed({3: 0.9}), n), DENSE).token_idx


def test_what_counts_is_what_was_computed_in_the_end():
    """A step that was completed moves all references."""
    tokens, n = settled(threshold=0.0)
    new = seen(changed({3: 0.9, 8: 0.5}), n)
    assert 0 < tokens.propose(new, DENSE).size < S
    tokens.commit(new, DENSE)
    again = tokens.propose(seen(new.features, n + 1), DENSE)
    assert not {3, 8} & set(again.token_idx)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_a_finite_number_is_an_error(bad):
    tokens, n = settled()
    with pytest.raises(ValueError, match="NaN or infinity"):
        tokens.propose(seen(changed({2: bad}), n), DENSE)


def test_selection_switched_off_keeps_each_plan():
    tokens = select_tokens(TokensConfig(select="all"), PatchChange(BLIND), WINDOW, 0, ())
    assert isinstance(tokens, AllTokens)
    for plan in (DENSE, TokenPlan.reuse(), TokenPlan(np.array([1, 3]), "drift")):
        kept = tokens.propose(seen(SCENE, 0), plan)
        tokens.commit(seen(SCENE, 0), kept)
        assert kept is plan
    assert len(tokens.sample.token_idx) == 0
    assert tokens.state() == {"tokens_select": "all"}
    assert selection(select="error").state() == {"tokens_select": "error"}


# Slow change, through a real patch embedding.


class PreviousTubelet(ChangedTokens):
    """The rule as it must not be: it measures against the tubelet before, whatever of it was computed."""

    def commit(self, seen: Observation, token_idx: np.ndarray) -> None:
        super().commit(seen, np.arange(len(seen.features)))


def shifted(picture: np.ndarray, pixels: float) -> np.ndarray:
    """The picture moved to the left by any number of pixels."""
    whole = int(pixels)
    part = pixels - whole
    near, far = np.roll(picture, -whole, axis=1), np.roll(picture, -whole - 1, axis=1)
    return np.round(near * (1 - part) + far * part).astype(np.uint8)


def most_left(rule_type: type[ChangedTokens], model: str, step: float, tubelets: int) -> tuple[float, float]:
    """Pan a textured scene by `step` pixels a tubelet under one rule, which chooses all by itself.

    Returns:
        The most that was left, relative to the patches' mean strength, at any time: mean over all tokens, and worst.
    """
    backend = load_backend(EncoderConfig(model=model, window=2), BackendConfig(threads=1))
    rule, config, scene = rule_type(PatchChange(patch_response(backend))), TokensConfig(), textured(128, 256)
    means, worst = [], []
    for n in range(tubelets):
        frame = shifted(scene, step * n)[:, :128]
        pixels = tubelet_pixels(frame, frame, 128, "crop")
        features = backend.embed(pixels).features.copy()
        observation = Observation(features, n * PERIOD_NS, pixels)
        error = rule.measure(observation)
        count = len(features) if error is None else rule.count(error, config, 1.0)
        chosen = np.arange(len(features)) if error is None else np.sort(np.argsort(-error, kind="stable")[:count])
        rule.commit(observation, chosen)
        if error is None:
            computed = features.copy()
        computed[chosen] = features[chosen]
        left = np.linalg.norm(features - computed, axis=1) / np.linalg.norm(features, axis=1).mean()
        means.append(left.mean())
        worst.append(left.max())
    return max(means), max(worst)


@pytest.mark.parametrize("model", ["tiny", "default"])
@pytest.mark.parametrize(("step", "tubelets"), [(0.02, 51), (0.1, 100)], ids=["1-px drift", "slow pan"])
def test_slow_change_stays_bounded_and_would_not_against_the_tubelet_before(model, step, tubelets):
    ours, theirs = (most_left(rule, model, step, tubelets) for rule in (ChangedTokens, PreviousTubelet))
    assert ours[0] < TokensConfig().threshold + COMPRESSION + 0.02
    assert ours[1] < 0.3
    assert theirs[0] > 1.7 * ours[0]
    assert theirs[1] > 1.5 * ours[1]
    if step * tubelets > 5:
        assert min(theirs) > 0.5, "as far as it pans"


def test_refreshes_go_on_until_the_scene_before_is_out_of_reach():
    """A still scene after a cut: whole tubelets for a window, then some of the oldest tokens, then nothing."""
    tokens = selection(reach=12)
    sizes = [show(tokens, seen(SCENE, n)).size for n in range(WINDOW + 40)]
    assert sizes[: WINDOW + 1] == [len(SCENE)] * (WINDOW + 1)
    encoded = [size for size in sizes[WINDOW + 1 :] if size]
    assert 0 < len(encoded) <= 12
    assert max(encoded) < len(SCENE)
    assert sizes[-1] == 0
