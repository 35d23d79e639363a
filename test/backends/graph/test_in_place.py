"""Whether caches can be updated in place is asked of the runtime itself."""

import onnxruntime
import pytest

from saccade_ros.backends.graph.in_place import has_in_place_caches


@pytest.mark.parametrize("version", ["1.23.0", "1.24.4", "9.9.9"])
def test_the_version_that_a_runtime_names_does_not_matter(monkeypatch, version):
    expected = has_in_place_caches()
    has_in_place_caches.cache_clear()
    monkeypatch.setattr(onnxruntime, "__version__", version)
    assert has_in_place_caches() is expected


def test_a_runtime_that_knows_the_operator_by_name_alone_cannot(monkeypatch):
    """As 1.24 does: the kernel is asked for when the session opens."""

    def refuse(*args, **options):
        raise RuntimeError("NOT_IMPLEMENTED : Could not find an implementation for TensorScatter(24)")

    has_in_place_caches.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(onnxruntime, "InferenceSession", refuse)
        assert not has_in_place_caches()
    has_in_place_caches.cache_clear()
