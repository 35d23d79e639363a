"""A video becomes the pictures that are in it, with their times, or an error that says what to do."""

import struct
from types import SimpleNamespace

import av
import numpy as np
import pytest
from recorded import FPS, FRAMES, PERIOD_NS, picture, read, write_video

from saccade_ros.recordings import open_source
from saccade_ros.recordings.source import IMAGE, SourceError
from saccade_ros.recordings.video import FIRST_STAMP_NS, sort_stamps
from saccade_ros.vision.images import decode_image


def test_a_video_gives_its_pictures_in_order(video):
    images = read(video)
    assert len(images) == FRAMES
    for index, recorded in enumerate(images):
        shown = decode_image(recorded.image, 10**6)
        assert np.abs(shown.astype(int) - picture(index)).mean() < 6
        assert (recorded.msgtype, recorded.cdr, recorded.frame_id) == (IMAGE, None, "camera")


def test_a_video_says_what_it_holds_before_it_is_read(video):
    with open_source(video, "/front") as source:
        assert (source.topic, source.msgtype, source.count) == ("/front", IMAGE, FRAMES)
        assert source.duration_s == pytest.approx(FRAMES / FPS)


def test_stamps_are_the_video_times(video):
    assert [image.stamp_ns for image in read(video)] == [FIRST_STAMP_NS + i * PERIOD_NS for i in range(FRAMES)]


def test_a_variable_frame_rate_is_kept(tmp_path):
    pts = [3, 4, 9, 10, 30]
    images = read(write_video(tmp_path / "variable.mp4", pts))
    assert [image.stamp_ns - FIRST_STAMP_NS for image in images] == [(p - 3) * PERIOD_NS for p in pts]


def test_stamps_stored_in_decoding_order_are_put_in_order():
    """The frames come in the order to show them, their stamps permuted: seen in the wild."""
    frames = [SimpleNamespace(pts=pts, shown=i) for i, pts in enumerate([0, 3, 2, 4, 1, 7, 6, 8, 5])]
    assert [(frame.shown, pts) for frame, pts in sort_stamps(frames, 1000)] == [(i, i) for i in range(9)]


def test_a_jump_back_in_time_is_not_sorted_away():
    """A spliced recording: the stream has to notice, and start afresh."""
    stamps = [*range(5000, 5040), *range(40)]
    frames = [SimpleNamespace(pts=pts) for pts in stamps]
    assert [pts for _, pts in sort_stamps(frames, 1000)] == stamps


@pytest.mark.parametrize(("quarters", "matrix"), [(3, (0, 1, -1, 0)), (2, (-1, 0, 0, -1)), (1, (0, -1, 1, 0))])
def test_a_phone_video_is_rotated_upright(video, tmp_path, quarters, matrix):
    a, b, c, d = matrix
    data = bytearray(video.read_bytes())
    at = data.index(b"tkhd") + 44  # the track's display matrix, ISO/IEC 14496-12 8.3.2
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    (tmp_path / "phone.mp4").write_bytes(data)
    shown = decode_image(read(tmp_path / "phone.mp4")[5].image, 10**6)
    assert np.abs(shown.astype(int) - np.rot90(picture(5), quarters)).mean() < 6


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.3, 0.5, 0.9, 0.97])
@pytest.mark.parametrize("flags", ["faststart", ""], ids=["index first", "index last"])
def test_a_cut_mp4_is_an_error(tmp_path, fraction, flags):
    data = write_video(tmp_path / "whole.mp4", **({"movflags": flags} if flags else {})).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(SourceError, match=r"cut\.mp4"):
        read(tmp_path / "cut.mp4")


@pytest.mark.parametrize("fraction", [0.1, 0.4])
@pytest.mark.parametrize("kind", ["avi", "mkv"])
def test_other_cut_videos_are_an_error(tmp_path, kind, fraction):
    data = write_video(tmp_path / f"whole.{kind}", range(4 * FRAMES)).read_bytes()
    (tmp_path / f"cut.{kind}").write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(SourceError, match=f"cut.{kind}"):
        read(tmp_path / f"cut.{kind}")


@pytest.mark.parametrize("name", ["notes.txt", "notes.nfo", "notes.mp4", "notes", "notes.yuv", "notes.jpg"])
def test_text_is_no_video(tmp_path, name):
    """FFmpeg would draw a .txt as ANSI art."""
    (tmp_path / name).write_text("meeting at ten\n" * 500)
    with pytest.raises(SourceError, match=name):
        read(tmp_path / name)


def test_sound_is_no_video(tmp_path):
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(SourceError, match="no video"):
        open_source(tmp_path / "sound.wav")
