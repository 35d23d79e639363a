"""Thumbnails of a replay: chosen evenly, and never the end of a report."""

from dataclasses import replace

import numpy as np
from test_report import recording, row

from saccade_ros.config import VisionConfig
from saccade_ros.recordings.source import IMAGE, RecordedImage
from saccade_ros.replay.inprocess import MAX_THUMBNAILS, thumbnails

VISION = VisionConfig(max_megapixels=0.01)


def recorded(stamp_ns: int) -> RecordedImage:
    return RecordedImage(stamp_ns, stamp_ns, "camera", np.zeros((4, 6, 3), np.uint8), None, IMAGE)


def test_malformed_image_with_the_stamp_of_an_encoded_one_is_passed_over():
    encoded = row(0)
    good = recorded(encoded.stamp_ns)
    malformed = replace(good, image=np.zeros((4, 6, 3), np.float32))
    pictures = thumbnails([good, malformed], recording([encoded]), VISION)
    assert list(pictures) == [encoded.stamp_ns]


def test_many_encoded_moments_are_thinned_evenly_from_first_to_last():
    rows = [row(i) for i in range(10 * MAX_THUMBNAILS)]
    pictures = thumbnails([recorded(r.stamp_ns) for r in rows], recording(rows), VISION)
    kept = sorted(pictures)
    assert len(kept) == MAX_THUMBNAILS
    assert (kept[0], kept[-1]) == (rows[0].stamp_ns, rows[-1].stamp_ns)
    assert np.ptp(np.diff(kept)) <= 80_000_000  # one tubelet


def test_nothing_encoded_has_no_thumbnails():
    assert thumbnails([recorded(10**9)], recording([row(0, encoded=False)]), VISION) == {}
