"""A serialized image is copied with another stamp, and with nothing else changed."""

from dataclasses import replace

import pytest
from recorded import TYPES, image_of

from saccade_ros.recordings.serialized import restamped, stamp_of
from saccade_ros.recordings.source import COMPRESSED, IMAGE


@pytest.mark.parametrize("little_endian", [True, False])
@pytest.mark.parametrize("kind", [IMAGE, COMPRESSED])
@pytest.mark.parametrize("stamp_ns", [0, 1, 1_999_999_999, 2**31 * 10**9 - 1])
def test_only_the_stamp_changes(kind, little_endian, stamp_ns):
    message = image_of(TYPES, kind, 3)
    cdr = bytes(TYPES.serialize_cdr(message, kind, little_endian=little_endian))
    sec, nanosec = divmod(stamp_ns, 10**9)
    header = replace(message.header, stamp=replace(message.header.stamp, sec=sec, nanosec=nanosec))
    expected = bytes(TYPES.serialize_cdr(replace(message, header=header), kind, little_endian=little_endian))
    assert restamped(cdr, stamp_ns) == expected
    assert stamp_of(expected) == stamp_ns
