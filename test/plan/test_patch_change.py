"""Change of each patch since its token was computed: its noise, which motion is not, and what adds up."""

import numpy as np
import pytest
from scenes import textured

from saccade_ros.backends import load_backend
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.frames import Observation
from saccade_ros.pipeline import patch_response
from saccade_ros.plan.change import PatchResponse
from saccade_ros.plan.patch_change import COMPRESSION, PatchChange
from saccade_ros.vision.preprocess import tubelet_pixels

BLIND = PatchResponse(grey=np.zeros(8, np.float32), white=0.0)
SCENE = np.eye(4, 8, dtype=np.float32)
ALL, NONE = np.arange(4), np.empty(0, np.int64)
NO_PIXELS = np.empty((2, 3, 0, 0), np.float32)


def seen(features: np.ndarray) -> Observation:
    return Observation(features, 0, NO_PIXELS)


def changed(by: float, patch: int = 3) -> np.ndarray:
    """The scene with one patch changed by this share of its length."""
    features = SCENE.copy()
    features[patch, 7] += by
    return features


def turned(angle: float) -> np.ndarray:
    """The scene with one patch turned: its strength stays, whatever the angle."""
    features = SCENE.copy()
    features[3] = np.cos(angle) * features[3] + np.sin(angle) * np.eye(8)[7]
    return features


def patches_of_scene() -> PatchChange:
    """The scene, still for long enough that no noise is known."""
    kept = PatchChange(BLIND)
    for _ in range(3):
        kept.commit(seen(SCENE), ALL)
    return kept


def test_nothing_is_measured_before_the_first_commit_or_after_a_reset():
    kept = PatchChange(BLIND)
    assert kept.measure(seen(SCENE)) is None
    kept.commit(seen(SCENE), ALL)
    assert kept.measure(seen(SCENE)).tolist() == [0, 0, 0, 0]
    kept.reset()
    assert kept.measure(seen(SCENE)) is None


def test_change_is_relative_and_what_compression_makes_does_not_count():
    kept = patches_of_scene()
    assert kept.measure(seen(changed(0.3))) == pytest.approx([0, 0, 0, 0.3 - COMPRESSION], abs=1e-6)
    assert kept.measure(seen(changed(0.9 * COMPRESSION))).tolist() == [0, 0, 0, 0]


def test_slow_change_adds_up_until_that_patch_is_computed():
    kept, by = patches_of_scene(), 0.0
    for n in range(1, 41):
        by = 0.01 * n
        assert kept.measure(seen(changed(by)))[3] == pytest.approx(max(by - COMPRESSION, 0), abs=0.01)
        kept.commit(seen(changed(by)), np.array([0, 1, 2]) if n % 2 else NONE)
    kept.commit(seen(changed(by)), np.array([3]))
    assert kept.measure(seen(changed(by))).tolist() == [0, 0, 0, 0]


def test_measuring_changes_nothing():
    kept, undisturbed = patches_of_scene(), patches_of_scene()
    for by in (0.1, 0.5, 0.2):
        kept.measure(seen(changed(9.0)))
        assert kept.measure(seen(changed(by))).tolist() == undisturbed.measure(seen(changed(by))).tolist()
        for patches in (kept, undisturbed):
            patches.commit(seen(changed(by)), NONE)


def test_patches_are_copied():
    """A backend may write the next tubelet into the same memory."""
    shown, kept = SCENE.copy(), PatchChange(BLIND)
    for _ in range(3):
        kept.commit(seen(shown), ALL)
    shown += 1
    assert kept.measure(seen(SCENE)).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("step", [0.05, 0.1, 0.5])
def test_steady_motion_is_not_taken_for_noise(step):
    """After a while as at its start: the change in one step, whole."""
    kept = patches_of_scene()
    for n in range(60):
        kept.commit(seen(turned(step * n)), ALL)
    moved = 2 * np.sin(step / 2)
    assert kept.measure(seen(turned(step * 60)))[3] == pytest.approx(moved - COMPRESSION, rel=0.02)


def test_stages_that_share_the_patches_see_what_each_alone_would_see():
    """Every stage measures and commits every tubelet; it counts once, also where a proposal came to nothing."""
    shared, alone = patches_of_scene(), patches_of_scene()
    for n in range(12):
        shared.measure(seen(changed(9.0)))
        shown, computed = seen(changed(0.1 * n)), (ALL, NONE)[n % 2]
        first, second = shared.measure(shown), shared.measure(shown)
        assert second is first
        assert first.tolist() == alone.measure(shown).tolist()
        for _ in range(2):
            shared.commit(shown, computed)
        alone.commit(shown, computed)
        assert shared.noise.tolist() == alone.noise.tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_a_finite_number_is_an_error(bad):
    with pytest.raises(ValueError, match="NaN or infinity"):
        patches_of_scene().measure(seen(changed(bad)))


class Camera:
    """A real patch embedding in front of a still scene, with sensor noise."""

    def __init__(self, model: str, scene: np.ndarray, sigma: float) -> None:
        self._backend = load_backend(EncoderConfig(model=model, window=2), BackendConfig(threads=1))
        self._scene, self._sigma, self._rng = scene, sigma, np.random.default_rng(0)
        self.response = patch_response(self._backend)

    def features(self, shift: int = 0) -> np.ndarray:
        """Patches of one tubelet, the scene shifted by this many pixels to the left."""
        pair = [self._frame(shift) for _ in range(2)]
        return self._backend.embed(tubelet_pixels(*pair, self._backend.info.input_size, "crop")).features.copy()

    def _frame(self, shift: int) -> np.ndarray:
        scene = np.roll(self._scene, -shift, axis=1)
        return np.clip(np.round(scene + self._rng.normal(0, self._sigma, scene.shape)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("model", ["tiny", "default"])
@pytest.mark.parametrize("brightness", [1.0, 0.2])
def test_sensor_noise_reads_nothing_once_it_is_learnt(model, brightness):
    camera = Camera(model, textured(128, 128) * brightness, sigma=2.0)
    kept = PatchChange(camera.response)
    kept.commit(seen(camera.features()), np.arange(64))
    read = []
    for _ in range(60):
        features = camera.features()
        read.append(kept.measure(seen(features)))
        kept.commit(seen(features), NONE)
    assert np.mean(read[20:]) < 0.001
    assert np.mean(np.array(read[20:]) > 0) < 0.02


@pytest.mark.parametrize("model", ["tiny", "default"])
def test_motion_is_seen_through_sensor_noise(model):
    """A pan by a pixel a tubelet, measured from one to the next, is as much as without noise, nearly."""
    noisy, clean = (Camera(model, textured(128, 128), sigma) for sigma in (2.0, 0.0))
    found = {}
    for camera in (noisy, clean):
        kept = PatchChange(camera.response)
        for n in range(40):
            kept.commit(seen(camera.features(n)), np.arange(64))
        found[camera] = float(kept.measure(seen(camera.features(40))).mean())
    assert found[noisy] > 0.7 * found[clean] > 0.03
