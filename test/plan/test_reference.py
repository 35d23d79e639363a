"""The reference in time: what is remembered, and when."""

import numpy as np
import pytest

from saccade_ros.plan.reference import PatchReference, PatchResponse

# Patch embeddings that do not respond to illumination: only what the patches hold counts.
BLIND = PatchResponse(grey=np.zeros(8, np.float32), uniform=np.zeros((3, 8), np.float32), white=0.0)
SCENE = np.eye(4, 8, dtype=np.float32)


def changed(by: float) -> np.ndarray:
    """The scene with its last patch changed, in a direction that is no gain."""
    patches = SCENE.copy()
    patches[3, 7] += by
    return patches


ALL, NONE = np.arange(4), np.empty(0, np.int64)


def reference(*committed: tuple[np.ndarray, bool], response: PatchResponse = BLIND) -> PatchReference:
    kept = PatchReference(response, top_fraction=0.0)
    for patches, encoded in committed:
        kept.commit(patches, ALL if encoded else NONE)
    return kept


def test_nothing_is_measured_before_the_first_commit_or_after_a_reset():
    kept = reference()
    assert kept.measure(SCENE) is None
    kept.commit(SCENE, ALL)
    assert kept.measure(SCENE) is not None
    kept.reset()
    assert kept.measure(SCENE) is None


def test_change_is_measured_against_the_last_encoded_patches_not_the_last():
    kept = reference((SCENE, True), (changed(0.1), False), (changed(0.2), False))
    assert kept.measure(changed(0.3)).patches == pytest.approx([0, 0, 0, 0.3], abs=0.01)
    kept.commit(changed(0.3), ALL)
    assert kept.measure(changed(0.3)).novelty == 0


def test_each_patch_is_measured_against_the_picture_in_which_it_was_computed_last():
    """The last patch changes: it goes on being new until it is computed itself."""
    kept = reference((SCENE, True))
    kept.commit(changed(0.3), np.array([0, 2]))
    assert kept.measure(changed(0.3)).patches == pytest.approx([0, 0, 0, 0.3], abs=0.01)
    kept.commit(changed(0.3), np.array([3]))
    assert kept.measure(changed(0.3)).patches == pytest.approx([0, 0, 0, 0], abs=1e-6)


def test_patches_are_copied():
    """A backend may write the next tubelet into the same memory."""
    shown = SCENE.copy()
    kept = reference((shown, True))
    shown += 1
    assert kept.measure(SCENE).novelty == 0


def test_noise_between_tubelets_is_taken_off_each_patch():
    flicker = [(changed(0.1 * (n % 2)), False) for n in range(99)]
    assert reference((SCENE, True)).measure(changed(0.1)).patches.max() == pytest.approx(0.1)
    assert reference((SCENE, True), *flicker).measure(changed(0.1)).patches.max() == 0


def test_gain_is_compensated_and_told_apart():
    """Half as bright again: no novelty, but change all the same."""
    change = reference((SCENE, True)).measure(1.5 * SCENE)
    assert change.novelty == pytest.approx(0, abs=0.01)
    assert change.uncompensated > 0.5


def test_gain_scales_what_is_above_grey():
    grey = np.full(8, 2.0, np.float32)
    change = reference((grey + SCENE, True), response=BLIND._replace(grey=grey)).measure(grey + 1.5 * SCENE)
    assert change.novelty == pytest.approx(0, abs=0.01)
