"""The calibration's centre as the text of a parameter."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade_ros.config import ConfigError
from saccade_ros.plan.centre import decode_centre, encode_centre


def vector(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@given(st.lists(st.floats(-60000, 60000, width=16), min_size=1, max_size=50))
def test_centre_survives_as_text(values):
    centre = np.array(values, np.float32)
    assert np.array_equal(decode_centre(encode_centre(centre), len(values)), centre)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not base64!", "gate.centre is damaged"),
        ("AAA=", "gate.centre holds 1 values, the encoder's embeddings 4"),
        (encode_centre(vector(1, 2, 3)), "gate.centre holds 3 values"),
        (encode_centre(vector(1, 2, 3, np.inf)), "gate.centre holds"),
        ("AAAA", "gate.centre is damaged"),
    ],
)
def test_damaged_or_foreign_centre_is_refused_with_the_remedy(text, said):
    with pytest.raises(ConfigError, match=said) as refused:
        decode_centre(text, dim=4)
    assert "saccade calibrate" in str(refused.value)
