"""The state that NumPy makes is torch's: same names, same shapes, same digest."""

from dataclasses import replace

import pytest
import torch

from saccade_ros.encoder import state
from saccade_ros.encoder.model import StreamingEncoder
from saccade_ros.encoder.spec import SIZES
from saccade_ros.encoder.weights import load_untrained, state_of

TINY = SIZES["tiny"]


@pytest.mark.parametrize("spec", [TINY, SIZES["vitg"], replace(TINY, patch_size=8, depth=1, mlp_width=100)])
def test_tensors_are_those_of_the_torch_encoder(spec):
    with torch.device("meta"):
        expected = StreamingEncoder(spec, 1).state_dict()
    assert {n: t.shape for n, t in state.shapes_alone(spec).items()} == {n: tuple(t.shape) for n, t in expected.items()}


def test_tensors_with_shapes_alone_take_no_writing():
    assert not any(tensor.flags.writeable for tensor in state.shapes_alone(TINY).values())


def test_state_of_an_encoder_is_its_memory_and_has_its_digest():
    loaded = load_untrained(TINY, 2, seed=1)
    seen, copied = state_of(loaded.encoder), state.allocate_state(TINY)
    for name, values in seen.items():
        copied[name][...] = values
    assert state.fingerprint(copied) == loaded.sha256
    seen["norm.bias"][3] = 1.0
    assert float(loaded.encoder.norm.bias[3]) == 1.0
