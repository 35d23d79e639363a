"""A view follows from seed and number, and shows what it says."""

import hashlib
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import write_pan
from scenes import textured, tiny_config

from saccade_ros.recordings.clip import decode_tubelets
from saccade_ros.recordings.source import SourceError
from saccade_ros.train.locked_views import View, ViewedClip, apply, draw_view, resize, show, survey

CONFIG = tiny_config()
WHOLE = View(0, 0.0, 1.0, 0.0, 0.0, mirrored=False, gains=(1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> ViewedClip:
    return survey(write_pan(tmp_path_factory.mktemp("clip") / "pan.mp4", place=0), 1, CONFIG)


def numbered(count: int, per_clip: int, seed: int = 0) -> list[tuple[int, View]]:
    return [(number, draw_view(seed, number, per_clip)) for number in range(count)]


def test_view_follows_from_seed_and_number_alone():
    view = draw_view(3, 7, 2)
    [draw_view(3, number, 2) for number in range(5)]
    assert draw_view(3, 7, 2) == view
    assert view.clip == 3
    assert draw_view(4, 7, 2)[1:] != view[1:]
    assert draw_view(3, 6, 2)[1:] != view[1:]


def test_views_are_the_ones_that_caches_were_made_with():
    """Pinned: another draw makes every cache that there is another one."""
    clip, start, side, top, left, mirrored, gains = draw_view(0, 5, 4)
    assert (clip, mirrored) == (1, True)
    assert (start, side, top, left, *gains) == pytest.approx(
        [0.345534025, 0.819099624, 0.411438138, 0.368903255, 0.919615703, 0.948307086, 1.025902464], rel=1e-6
    )


def test_views_of_a_clip_are_spread_in_order():
    starts = [draw_view(0, number, 4).start for number in range(8)]
    assert all(place / 4 <= start < (place + 1) / 4 for place, start in zip([0, 1, 2, 3] * 2, starts, strict=True))


def test_crops_gains_and_mirror_images_vary_within_their_bounds():
    views = [view for _, view in numbered(200, 1)]
    assert min(view.side for view in views) >= 0.6
    assert max(view.side for view in views) <= 1.0
    assert all(0 <= place < 1 for view in views for place in (view.top, view.left))
    assert 60 < sum(view.mirrored for view in views) < 140
    assert 0.05 < np.std([np.log(view.gains) for view in views]) < 0.3


def test_whole_view_is_the_picture():
    picture = textured(64, 64)
    assert np.array_equal(apply(WHOLE, picture, 64), picture)


def test_mirrored_view_is_the_mirror_image():
    picture = textured(64, 64)
    assert np.array_equal(apply(WHOLE._replace(mirrored=True), picture, 64), picture[:, ::-1])


def test_gains_are_of_red_green_and_blue_and_clip_at_white():
    grey = np.full((8, 8, 3), 100, np.uint8)
    assert apply(WHOLE._replace(gains=(0.5, 1.25, 3.0)), grey, 8)[0, 0].tolist() == [50, 125, 255]


def test_crop_is_where_the_view_says():
    """A quarter of a wide picture, at its lower right end."""
    picture = textured(64, 96)
    corner = View(0, 0.0, 0.5, 1.0, 1.0, mirrored=False, gains=(1.0, 1.0, 1.0))
    assert np.array_equal(apply(corner, picture, 32), picture[32:, 64:])
    shrunk = apply(corner, picture, 16)
    assert np.array_equal(shrunk, cv2.resize(picture[32:, 64:], (16, 16), interpolation=cv2.INTER_AREA))


def test_shrinking_averages_areas():
    """A checkerboard is grey, not one of its colours."""
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=-1)
    assert np.abs(resize(board, 32).astype(int) - 128).max() <= 1
    assert resize(board, 96).shape == (96, 96, 3)


def test_view_is_the_same_whatever_else_is_shown(clip):
    views = numbered(5, 5)
    together = list(show(views, clip, 3, 32, CONFIG))
    assert [seen.number for seen in together] == [0, 1, 2, 3, 4]
    for one, seen in zip(views, together, strict=True):
        (alone,) = show([one], clip, 3, 32, CONFIG)
        assert np.array_equal(alone.pictures, seen.pictures)
        assert np.array_equal(alone.stamps_ns, seen.stamps_ns)


def test_pictures_are_those_of_the_clip_from_the_start_on(clip):
    view = draw_view(1, 0, 1)
    (seen,) = show([(0, view)], clip, 3, 32, CONFIG)
    start = int(view.start * (clip.tubelets - 3 + 1))
    tubelets = list(decode_tubelets(clip.path, CONFIG))[start : start + 3]
    expected = [[apply(view, picture, 32) for picture in (t.older, t.newer)] for t in tubelets]
    assert np.array_equal(seen.pictures, expected)
    assert seen.stamps_ns.tolist() == [[t.older_ns, t.newer_ns] for t in tubelets]


def test_first_and_last_place_can_be_had(clip):
    for start, place in ((0.0, 0), (0.999999, clip.tubelets - 3)):
        (seen,) = show([(0, WHOLE._replace(start=start))], clip, 3, 32, CONFIG)
        stamps_ns = [t.older_ns for t in decode_tubelets(clip.path, CONFIG)]
        assert seen.stamps_ns[0, 0] == stamps_ns[place]


def test_survey_counts_tubelets_and_hashes_the_file(clip):
    assert clip.tubelets == 12
    assert clip.sha256 == hashlib.sha256(clip.path.read_bytes()).hexdigest()


def test_clip_that_is_too_short_is_named_with_both_numbers(clip):
    with pytest.raises(SourceError, match=r"pan\.mp4 has 12 tubelets, a view 13: leave it out, or lower --tubelets"):
        survey(clip.path, 13, CONFIG)
    assert survey(clip.path, 12, CONFIG) == clip


def test_clip_that_has_become_shorter_is_refused(clip):
    longer = ViewedClip(clip.path, 40, clip.sha256)
    with pytest.raises(SourceError, match="has become shorter"):
        list(show([(0, WHOLE._replace(start=0.9))], longer, 3, 32, CONFIG))


def test_long_clip_is_not_held_whole(tmp_path):
    """Of 400 frames, 23 MB decoded, a few are held at a time."""
    path: Path = write_pan(tmp_path / "long.mp4", place=0, frames=400)
    tracemalloc.start()
    try:
        long = survey(path, 2, CONFIG)
        numbers = [seen.number for seen in show(numbered(4, 4), long, 2, 32, CONFIG)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (long.tubelets, numbers) == (200, [0, 1, 2, 3])
    assert peak < 400 * 120 * 160 * 3 / 8
