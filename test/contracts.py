"""Contracts of an exported step that the ONNX Runtime which is installed can run."""

import pytest

from saccade_ros.backends.graph.in_place import has_in_place_caches


def require_kernels(contract):
    """Skip a test of caches updated in place where there is no kernel for it, as before ONNX Runtime 1.25."""
    if contract == "scatter" and not has_in_place_caches():
        pytest.skip("this ONNX Runtime cannot update caches in place")
