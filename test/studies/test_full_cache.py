"""A stream that is full, in any backend."""

import pytest

from saccade_ros.backends import load_backend
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.studies.full_cache import FullCache


@pytest.fixture(scope="module")
def backend():
    return load_backend(EncoderConfig("tiny", window=3), BackendConfig(name="torch", threads=1))


def test_cache_is_full_before_anything_is_timed(backend):
    full = FullCache(backend)
    assert full.tokens == 64
    assert full._state.fill == 3
    full.sparse(0.1)()
    full.encode()
    assert full._state.fill == 3


def test_share_is_widened_to_what_the_backend_computes(backend):
    full = FullCache(backend)
    assert [full.computed(share) for share in (0.001, 0.1, 0.25, 1.0)] == [1, 6, 16, 64]
    full.counts = (8, 64)
    assert [full.computed(share) for share in (0.001, 0.1, 0.25, 1.0)] == [8, 8, 64, 64]
