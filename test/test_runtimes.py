"""The list of runtimes says what their modules have."""

import importlib

import pytest

from saccade_ros.backends.torch_backend import DTYPES
from saccade_ros.export.quantize import QUANTIZED
from saccade_ros.runtimes import EXPORT_PRECISIONS, RUNTIMES


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_runtime_has_its_backend(name):
    module = importlib.import_module(f"saccade_ros.backends.{RUNTIMES[name].module}")
    assert {"embed", "new_state"} <= set(dir(getattr(module, RUNTIMES[name].backend)))


def test_precisions_are_those_that_are_computed():
    assert tuple(DTYPES) == RUNTIMES["torch"].precisions
    assert set(QUANTIZED) == set(EXPORT_PRECISIONS["onnx"]) - {"fp32", "fp16"}
