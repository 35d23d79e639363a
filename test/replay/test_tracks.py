"""Tracks hold a recording as it is, from memory or read ahead, and the length of a pass."""

from contextlib import closing
from itertools import islice

import numpy as np
import pytest
from mcap_files import images, write_mcap
from recorded import record, record_stamped

from saccade_ros.recordings import open_source
from saccade_ros.recordings.source import COMPRESSED, IMAGE, SourceError
from saccade_ros.replay.tracks import load_tracks

MS = 10**6


@pytest.mark.parametrize("memory_bytes", [1 << 20, 0], ids=["in memory", "read ahead"])
def test_messages_are_those_of_the_bag_over_and_over(tmp_path, memory_bytes):
    with open_source(record(tmp_path / "bag", {"/camera": IMAGE})) as source:
        recorded = [image.cdr for image in source]
        tracks = load_tracks([source], memory_bytes)
        assert tracks.in_memory == (memory_bytes > 0)
        for _ in range(2):  # a second trial starts with the first message again
            with closing(tracks.tracks[0].cycle()) as messages:
                assert list(islice(messages, 15)) == [*recorded, *recorded, *recorded[:3]]


def test_topics_share_the_memory(tmp_path):
    bag = record(tmp_path / "bag", {"/left": IMAGE, "/right": COMPRESSED})
    with open_source(bag, "/left") as left, open_source(bag, "/right") as right:
        size = sum(len(image.cdr) for image in left)
        assert not load_tracks([left, right], size).in_memory
        assert load_tracks([left, right], 2 * size).in_memory


def test_a_pass_is_the_span_and_one_period(tmp_path):
    stamps_ns = [7_000 * MS + 40 * MS * place for place in (0, 1, 2, 4, 5)]
    with open_source(record_stamped(tmp_path / "bag", stamps_ns)) as source:
        tracks = load_tracks([source], 1 << 20)
    assert tracks.pass_stamp_ns == 240 * MS
    assert tracks.pass_ns == 5  # record_stamped has them received a nanosecond apart
    assert np.array_equal(tracks.tracks[0].times_ns, range(5))


@pytest.mark.parametrize("stamps_ns", [[0], [0, 0, 0]])
def test_a_pass_is_longer_than_nothing(tmp_path, stamps_ns):
    with open_source(record_stamped(tmp_path / "bag", stamps_ns)) as source:
        assert load_tracks([source], 1 << 20).pass_stamp_ns == 1


def test_damage_anywhere_shows_before_a_trial(tmp_path):
    file = write_mcap(tmp_path / "a.mcap", [images()])
    data = bytearray(file.read_bytes())
    data[data.rindex(b"rgb8") + 8] ^= 1  # a pixel of the last chunk
    file.write_bytes(data)
    with open_source(file) as source, pytest.raises(SourceError, match="chunk"):
        load_tracks([source], 0)
