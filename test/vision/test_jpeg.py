"""A JPEG decodes if all its data is there, however it is coded, and is refused wherever a part is missing."""

import re
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_messages import (
    MAX_PIXELS,
    Compressed,
    encoded,
    forbid_decoding,
    picture_of,
    refusal,
    with_segment,
)

from saccade_ros.vision import jpeg_decoding
from saccade_ros.vision.images import check_image
from saccade_ros.vision.jpeg import MAX_SCANS, jpeg_frame, read_scans
from saccade_ros.vision.malformed import MalformedImage

DATA = Path(__file__).parent.parent / "data"
JPEG = encoded(".jpg")  # 64 x 48


def scene(height: int = 240, width: int = 320, seed: int = 0) -> np.ndarray:
    """Coarse and fine detail everywhere, so that each part of the data matters."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.integers(0, 256, (12, 16, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(coarse + rng.normal(0, 6, coarse.shape), 0, 255).astype(np.uint8)


def option(name: str) -> int:
    return int(getattr(cv2, f"IMWRITE_JPEG_{name}"))


FINE = (option("SAMPLING_FACTOR"), option("SAMPLING_FACTOR_444"))


def sequential(seed: int) -> dict[str, bytes]:
    """One scene as JPEGs of the usual kind."""
    return {
        "4:2:0": encoded(".jpg", scene(seed=seed)),
        "4:4:4": encoded(".jpg", scene(seed=seed), *FINE),
        "grey": encoded(".jpg", scene(seed=seed)[..., 0]),
        "odd size": encoded(".jpg", scene(233, 305, seed)),
        "an interval a row": encoded(".jpg", scene(seed=seed), option("RST_INTERVAL"), 20),
    }


SEQUENTIAL = sequential(seed=0)
PROGRESSIVE = encoded(".jpg", scene(), option("PROGRESSIVE"), 1)
OTHERS = {
    "progressive": PROGRESSIVE,
    **{file.stem: file.read_bytes() for file in sorted(DATA.glob("*.jpg"))},
}
EVERY = SEQUENTIAL | OTHERS


def scan_of(jpeg: bytes) -> tuple[int, int]:
    """First byte of the first scan's data, and the end mark."""
    at = jpeg.index(b"\xff\xda")
    return at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big"), jpeg.rindex(b"\xff\xd9")


def placed(jpeg: bytes, where: float, kept_free: int = 8) -> int:
    start, end = scan_of(jpeg)
    return start + int(where * (end - start - kept_free))


@pytest.fixture(params=["simplejpeg", "OpenCV alone"])
def decoder(request, monkeypatch):
    """Both ways to decode: with libjpeg's warnings, and without."""
    if request.param == "OpenCV alone":
        monkeypatch.setattr(jpeg_decoding, "simplejpeg", None)
    elif jpeg_decoding.simplejpeg is None:
        pytest.skip("simplejpeg is not installed")


@pytest.fixture
def strict():
    """libjpeg's warnings are heard."""
    if jpeg_decoding.simplejpeg is None:
        pytest.skip("simplejpeg is not installed: OpenCV keeps libjpeg's warnings to itself")


both = pytest.mark.usefixtures("decoder")
any_of_both = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@both
@pytest.mark.parametrize("name", EVERY)
def test_whole_data_decodes_to_the_decoders_own_picture(name):
    jpeg = EVERY[name]
    expected = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(picture_of(Compressed(jpeg)), expected[..., ::-1])


@both
@pytest.mark.parametrize("name", [*SEQUENTIAL, "progressive", "three_scans"])
@pytest.mark.parametrize("stray", [b"\0", b"\x5a", b"\x5a\xa5", b"\xff", b"\xff\xff"])
def test_a_stray_byte_before_the_end_mark_passes(name, stray):
    jpeg = EVERY[name]
    end = jpeg.rindex(b"\xff\xd9")
    assert np.array_equal(picture_of(Compressed(jpeg[:end] + stray + jpeg[end:])), picture_of(Compressed(jpeg)))


@pytest.mark.parametrize("stray", [b"\0", b"\x5a" * 9, b"\xff\0", b"\xff" * 7])
def test_stray_bytes_between_segments_pass(stray):
    for at in (JPEG.index(b"\xff\xdb"), JPEG.index(b"\xff\xc0"), JPEG.index(b"\xff\xda")):
        jpeg = JPEG[:at] + stray + JPEG[at:]
        assert jpeg_frame(memoryview(jpeg))[1:3] == (64, 48)
        assert np.array_equal(picture_of(Compressed(jpeg)), picture_of(Compressed(JPEG)))


@both
@pytest.mark.parametrize("name", EVERY)
@given(where=st.floats(0, 0.97))
@any_of_both
def test_a_cut_scan_is_refused_with_and_without_an_end_mark(name, where):
    jpeg = EVERY[name]
    cut = jpeg[: placed(jpeg, where)]
    assert refusal(Compressed(cut)).cause == "undecodable"
    assert refusal(Compressed(cut + b"\xff\xd9")).cause == "undecodable"


@both
@pytest.mark.parametrize("name", EVERY)
@given(where=st.floats(0, 1))
@any_of_both
def test_a_picture_that_runs_into_the_next_is_refused(name, where):
    jpeg = EVERY[name]
    together = jpeg[: placed(jpeg, where)] + encoded(".jpg", scene(seed=1))
    assert refusal(Compressed(together)).cause == "undecodable"


@both
@pytest.mark.parametrize("name", SEQUENTIAL)
@given(where=st.floats(0, 1), length=st.integers(1024, 4096))
@any_of_both
def test_a_gap_is_refused(name, where, length):
    jpeg = SEQUENTIAL[name]
    at = placed(jpeg, where, length + 8)
    assert refusal(Compressed(jpeg[:at] + jpeg[at + length :])).cause == "undecodable"


@given(data=st.data(), lost=st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_lost_restart_intervals_are_refused(data, lost):
    jpeg = SEQUENTIAL["an interval a row"]
    start, end = scan_of(jpeg)
    markers = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", jpeg[start:end])]
    first = data.draw(st.integers(0, len(markers) - 1 - lost))
    without = jpeg[: start + markers[first]] + jpeg[start + markers[first + lost] :]
    assert "restart intervals" in str(refusal(Compressed(without)))


@both
def test_a_restart_marker_behind_the_last_interval_passes():
    jpeg = SEQUENTIAL["an interval a row"]
    end = jpeg.rindex(b"\xff\xd9")
    number = (240 // 16 - 1) % 8
    again = jpeg[:end] + bytes([0xFF, 0xD0 + number]) + jpeg[end:]
    assert np.array_equal(picture_of(Compressed(again)), picture_of(Compressed(jpeg)))


@both
@pytest.mark.parametrize("grey", [127, 128, 129])
@pytest.mark.parametrize("rst", [0, 1])
def test_a_picture_as_grey_as_missing_data_passes(grey, rst):
    plain = np.full((100, 100, 3), grey, np.uint8)
    shown = picture_of(Compressed(encoded(".jpg", plain, option("RST_INTERVAL"), rst)))
    assert np.abs(shown.astype(int) - grey).max() <= 1


@pytest.mark.parametrize("name", ["progressive", "arithmetic_progressive", "three_scans"])
def test_a_missing_scan_is_refused(name):
    jpeg = OTHERS[name]
    scans = read_scans(memoryview(jpeg), jpeg_frame(memoryview(jpeg)))
    assert len(scans) >= 3
    for scan in scans[:-1]:
        cut = jpeg[: scan.ends[-1]] + b"\xff\xd9"
        assert "before the picture is complete" in str(refusal(Compressed(cut)))


def test_too_many_scans_are_refused_before_they_are_decoded(monkeypatch):
    at, end = PROGRESSIVE.rindex(b"\xff\xda"), PROGRESSIVE.rindex(b"\xff\xd9")
    last = PROGRESSIVE[at:end]
    forbid_decoding(monkeypatch)
    error = refusal(Compressed(PROGRESSIVE[:end] + last * 1000 + PROGRESSIVE[end:]))
    assert f"more than {MAX_SCANS} scans" in str(error)


@pytest.mark.parametrize("jpeg", [JPEG, PROGRESSIVE], ids=["sequential", "progressive"])
def test_fewer_bytes_than_any_picture_of_its_size_takes_are_refused_by_the_header(jpeg):
    at = re.search(rb"\xff[\xc0\xc2]", jpeg).start() + 5
    claims = jpeg[:at] + struct.pack(">HH", 1000, 1000) + jpeg[at + 4 : 1200]
    with pytest.raises(MalformedImage, match="1000 x 1000 pixels take at least"):
        check_image(Compressed(claims), MAX_PIXELS)


@pytest.mark.parametrize("options", [(), FINE, (option("PROGRESSIVE"), 1), (option("OPTIMIZE"), 1)])
def test_the_smallest_picture_of_a_size_passes(options):
    black = encoded(".jpg", np.zeros((1000, 1000, 3), np.uint8), option("QUALITY"), 1, *options)
    assert picture_of(Compressed(black)).max() < 8


@pytest.mark.parametrize("before", [b"", b"\xff", b"\xff" * 7, b"\xff\xe0\0\x02" * 99])
def test_a_size_is_found_behind_fill_bytes_and_segments(before):
    assert jpeg_frame(memoryview(JPEG[:2] + before + JPEG[2:]))[1:3] == (64, 48)


def test_the_search_for_a_size_ends():
    with pytest.raises(MalformedImage, match="no readable frame header"):
        jpeg_frame(memoryview(JPEG[:2] + b"\xff\xe0\0\x02" * 1024 + JPEG[2:]))


def test_a_comment_that_looks_like_a_frame_header_is_stepped_over():
    fake = b"\xff\xc0\0\x11\x08" + struct.pack(">HH", 1, 1)
    assert jpeg_frame(memoryview(with_segment(JPEG, 0xFE, fake)))[1:3] == (64, 48)


def share_refused(jpegs: list[bytes]) -> float:
    refused = 0
    for jpeg in jpegs:
        try:
            picture_of(Compressed(jpeg))
        except MalformedImage:
            refused += 1
    return refused / len(jpegs)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_nearly_every_gap_of_256_bytes_and_splice_is_refused(name):
    jpeg, other = SEQUENTIAL[name], sequential(seed=1)[name]
    places = [placed(jpeg, where, 264) for where in np.linspace(0, 1, 24)]
    assert share_refused([jpeg[:at] + jpeg[at + 256 :] for at in places]) > 0.85
    assert share_refused([jpeg[:at] + other[placed(other, 0.9 * i / 24) :] for i, at in enumerate(places)]) > 0.85


@pytest.mark.usefixtures("strict")
def test_data_that_is_left_over_is_refused_but_not_padding():
    jpeg = SEQUENTIAL["4:2:0"]
    end = jpeg.rindex(b"\xff\xd9")
    assert "extraneous" in str(refusal(Compressed(jpeg[:end] + bytes(range(100)) + jpeg[end:])))
    for padding in (bytes(100), b"\x55" * 1000, b"\xff" * 100, bytes(range(12))):
        padded = Compressed(jpeg[:end] + padding + jpeg[end:])
        assert np.array_equal(picture_of(padded), picture_of(Compressed(jpeg)))


@pytest.mark.parametrize(
    ("marker", "body"),
    [
        (0xE0, b"JFIF\0\x09\x09\0\0\x01\0\x01\0\0"),
        (0xE2, b"ICC_PROFILE\0\x07\x02profile"),
        (0xEE, b"Adobe\0\x64\0\0\0\0\x09"),
    ],
    ids=["version of JFIF", "part of a profile", "Adobe transform"],
)
def test_a_warning_that_says_nothing_of_the_pixels_refuses_nothing(marker, body):
    assert picture_of(Compressed(with_segment(JPEG, marker, body))).shape == (48, 64, 3)


@both
@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("name", sorted(EVERY.keys() - {"odd size"}))
def test_a_smaller_scale_shows_the_same_picture(name, factor):
    jpeg = np.frombuffer(EVERY[name], np.uint8)
    frame = jpeg_frame(jpeg.data)
    whole, small = (jpeg_decoding.decode_jpeg(jpeg, frame, by) for by in (1, factor))
    if small.shape == whole.shape:  # of a kind that only every pixel can be judged by
        assert name not in SEQUENTIAL
        return
    height, width = frame.height // factor, frame.width // factor
    assert small.shape == (height, width, 3)
    averaged = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
    assert np.abs(averaged.astype(int) - small).mean() < 2.5


@both
@pytest.mark.parametrize("factor", [2, 8])
def test_a_cut_is_found_at_a_smaller_scale_too(factor):
    for jpeg in SEQUENTIAL.values():
        for where in (0.0, 0.3, 0.9):
            cut = np.frombuffer(jpeg[: placed(jpeg, where)] + b"\xff\xd9", np.uint8)
            with pytest.raises(MalformedImage):
                jpeg_decoding.decode_jpeg(cut, jpeg_frame(cut.data), factor)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_both_decoders_give_the_same_pixels(factor, monkeypatch):
    for jpeg in SEQUENTIAL.values():
        data = np.frombuffer(jpeg, np.uint8)
        strictly = jpeg_decoding.decode_jpeg(data, jpeg_frame(data.data), factor)
        with monkeypatch.context() as patch:
            patch.setattr(jpeg_decoding, "simplejpeg", None)
            assert np.array_equal(strictly, jpeg_decoding.decode_jpeg(data, jpeg_frame(data.data), factor))
