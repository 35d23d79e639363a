"""Encoding by a plan: sparse steps that stand and that do not, correction, reuse."""

import numpy as np
import pytest
from scenes import textured, tiny_config

from saccade_ros.backends.base import Embedded, unit
from saccade_ros.backends.torch_backend import TorchBackend
from saccade_ros.config import Config, EncoderConfig
from saccade_ros.encoding import Encoding
from saccade_ros.frames import TokenPlan
from saccade_ros.heads import NoHead
from saccade_ros.plan.context import RATE, Sample
from saccade_ros.plan.tokens import NOTHING_KEPT
from saccade_ros.stepping import run_alone
from saccade_ros.vision.preprocess import tubelet_pixels

S, WINDOW = 64, 3
SOME = np.array([0, 9, 33, 34, 60])
FAR, NEAR = Sample(SOME[1:3], age_s=0.1, lag_s=100.0), Sample(SOME[1:3], age_s=1.0, lag_s=1e-4)
PLAN, DENSE = TokenPlan(SOME, "change"), TokenPlan.dense(S, "change")


class Player:
    """One stream's encoding and its pictures: tubelet n shows place n."""

    def __init__(self, **encoder: object) -> None:
        self.config: Config = tiny_config(encoder=EncoderConfig(**{"model": "tiny", "window": WINDOW, **encoder}))
        self.backend = TorchBackend(self.config.encoder, self.config.backend)
        self.encoding = self.open()

    def open(self) -> Encoding:
        """One more stream."""
        return Encoding(self.config, self.backend, NoHead())

    def patches(self, n: int) -> Embedded:
        picture = textured(128, 128, seed=n)
        return self.backend.embed(tubelet_pixels(picture, picture, 128, "crop")).patches

    def play(
        self, n: int, plan: TokenPlan, sample: Sample = NOTHING_KEPT, encoding: Encoding | None = None
    ) -> TokenPlan:
        """Encode tubelet n; the plan as it was in the end."""
        return run_alone((encoding or self.encoding).encode(self.patches(n), plan, S, sample, n))


@pytest.fixture
def player() -> Player:
    """After a full window of dense tubelets, 0 to 2."""
    made = Player()
    for n in range(WINDOW):
        made.play(n, DENSE)
    return made


def dense_twin(player: Player, count: int) -> Encoding:
    twin = player.open()
    for n in range(count):
        player.play(n, DENSE, encoding=twin)
    return twin


def test_a_sparse_step_that_stands_is_its_plan(player):
    plan = player.play(3, PLAN, NEAR)
    assert plan is PLAN
    assert (player.encoding.tokens_computed, player.encoding.reuse_count, player.encoding.encoded_stamp_ns) == (5, 0, 3)
    assert not np.allclose(player.encoding.vector, dense_twin(player, 4).vector, rtol=1e-3)


def test_a_far_sample_makes_the_tubelet_whole_as_if_it_had_never_been_sparse(player):
    plan, twin = player.play(3, PLAN, FAR), dense_twin(player, 4)
    assert (plan.size, plan.reason) == (S, "change")
    assert player.encoding.tokens_computed == S + 5
    assert np.array_equal(player.encoding.vector, twin.vector)
    for n in (4, 5, 6):
        player.play(n, DENSE)
        player.play(n, DENSE, encoding=twin)
        assert np.array_equal(player.encoding.vector, twin.vector)


def test_pauses_after_far_samples_double_up_to_the_window(player):
    """Tubelets that are computed whole without an attempt between those that were attempted in vain."""
    attempts = []
    for n in range(3, 24):
        assert player.play(n, PLAN, FAR).size == S
        attempts.append(player.encoding.tokens_computed > S)
    assert np.diff(np.flatnonzero(attempts)).tolist() == [2, 3, 4, 4, 4]
    assert np.array_equal(player.encoding.vector, dense_twin(player, 24).vector)


def test_what_kept_tokens_lack_is_added_to_the_embedding(player):
    state = player.backend.new_state()
    for n in range(WINDOW):
        state.step(player.patches(n))
    plain = state.step(player.patches(3), SOME)
    moved = state.movement(NEAR.token_idx).mean
    sample = NEAR._replace(lag_s=1e-3)
    player.play(3, PLAN, sample)
    added = player.encoding.vector - plain
    assert added == pytest.approx(1e-3 * RATE * moved / sample.age_s, abs=1e-6)
    assert np.linalg.norm(added) > 1e-4


def test_nothing_is_added_to_a_mean_over_the_window():
    player = Player(pooling="window")
    state = player.backend.new_state()
    for n in range(WINDOW):
        player.play(n, DENSE)
        state.step(player.patches(n))
    player.play(3, PLAN, NEAR._replace(lag_s=1e-3))
    assert np.array_equal(player.encoding.vector, state.step(player.patches(3), SOME))


def test_corrected_embeddings_have_length_one_when_asked():
    player, plain = Player(normalize=True), Player()
    for made in (player, plain):
        for n in range(WINDOW):
            made.play(n, DENSE)
        made.play(3, PLAN, NEAR._replace(lag_s=1e-3))
    assert np.linalg.norm(player.encoding.vector) == pytest.approx(1, abs=1e-6)
    assert player.encoding.vector == pytest.approx(unit(plain.encoding.vector), abs=1e-6)


def test_reuse_keeps_the_embedding_and_lets_the_cache_hold_the_newest_tubelet(player):
    """Gate shut and a sparse step of no token are one."""
    vector, state = player.encoding.vector.copy(), player.backend.new_state()
    for n in range(WINDOW):
        state.step(player.patches(n))
    for count in (1, 2):
        player.encoding.reuse(player.patches(20 + count))
        state.hold()
        assert np.array_equal(player.encoding.vector, vector)
        assert (player.encoding.reuse_count, player.encoding.tokens_computed) == (count, 0)
        assert player.encoding.encoded_stamp_ns == WINDOW - 1
    for n, plan in ((3, DENSE), (4, PLAN), (5, DENSE)):
        player.play(n, plan)
        assert np.array_equal(player.encoding.vector, state.step(player.patches(n), plan.token_idx))


def test_a_step_that_fails_after_a_pause_lets_no_time_pass_twice(player):
    """The next tubelet comes out as if the failed one had never been; a shadow evaluation would come too late."""
    twin, layer = dense_twin(player, WINDOW), player.backend._encoder.layers[2]
    for encoding in (player.encoding, twin):
        encoding.reuse(player.patches(20))
    assert player.encoding.is_shadow_due(1.0)
    hook = layer.register_forward_hook(lambda *_: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            player.play(3, DENSE)
    hook.remove()
    assert not player.encoding.is_shadow_due(1.0)
    for n in (4, 5):
        player.play(n, DENSE)
        player.play(n, DENSE, encoding=twin)
        assert np.array_equal(player.encoding.vector, twin.vector)
        assert player.encoding.fill == twin.fill


@pytest.mark.parametrize("failing", range(3, 9))
@pytest.mark.parametrize("sample", [NEAR, FAR])
def test_a_tubelet_that_fails_leaves_the_stream_as_it_was(player, failing, sample):
    """In the sparse step, in a pause, or, after a far sample, in the step that completes it."""
    twin, layer = dense_twin(player, WINDOW), player.backend._encoder.layers[2]
    calls = []

    def fail_whole(module, inputs, output):
        calls.append(len(output[0]))
        if sample is NEAR or len(output[0]) == S:
            raise MemoryError("no memory")

    for n in range(3, 10):
        if n == failing:
            hook = layer.register_forward_hook(fail_whole)
            with pytest.raises(MemoryError):
                player.play(100, PLAN, sample)
            hook.remove()
        plans = player.play(n, PLAN, sample), player.play(n, PLAN, sample, encoding=twin)
        assert plans[0].size == plans[1].size
        assert player.encoding.tokens_computed == twin.tokens_computed
        assert np.array_equal(player.encoding.vector, twin.vector)
    assert calls


def test_a_reset_forgets_embedding_pause_and_drift(player):
    player.play(3, PLAN, FAR)
    player.encoding.reset()
    assert player.encoding.vector is None
    fresh = player.open()
    for n, plan in enumerate((DENSE, PLAN, PLAN, DENSE, PLAN)):
        player.play(n, plan, NEAR)
        player.play(n, plan, NEAR, encoding=fresh)
        assert np.array_equal(player.encoding.vector, fresh.vector)
        assert player.encoding.tokens_computed == fresh.tokens_computed == plan.size
