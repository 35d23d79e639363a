"""A video becomes the pictures that are in it, with their times, or an error that says what to do."""

import itertools
import struct
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from recorded import FPS, FRAMES, PERIOD_NS, picture, read, write_video

from saccade_ros.recordings import open_source
from saccade_ros.recordings.source import IMAGE, SourceError
from saccade_ros.recordings.video import FIRST_STAMP_NS, JOINT, sort_stamps
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


def test_nothing_is_sorted_across_a_joint():
    frames = [JOINT, SimpleNamespace(pts=5), SimpleNamespace(pts=4), JOINT, SimpleNamespace(pts=3), JOINT]
    assert [pts for _, pts in sort_stamps(frames, 1000)] == [4, 5, 3]


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


def test_frames_that_a_camera_dropped_are_no_damage(tmp_path):
    """An AVI has empty packets in their place, and counts them."""
    pts = [0, 1, 2, 6, 7, 8, 9, 15, 16, 17, 18, 19]
    path = write_video(tmp_path / "dropped.avi", pts)
    with open_source(path) as source:
        assert source.count == 20
        assert [image.stamp_ns - FIRST_STAMP_NS for image in source] == [p * PERIOD_NS for p in pts]


def _count_more(data):
    return data.replace(struct.pack("<I", FRAMES), struct.pack("<I", FRAMES + 30))


def _last_longer(data):
    """Matroska's Duration (RFC 9559, 5.1.2.10), a double of milliseconds, three times as long."""
    at = data.index(b"\x44\x89\x88") + 3
    return data[:at] + struct.pack(">d", 3 * struct.unpack(">d", data[at : at + 8])[0]) + data[at + 8 :]


@pytest.mark.parametrize(
    ("kind", "edit"),
    [
        ("avi", _count_more),
        ("mkv", _last_longer),
        ("mp4", lambda data: data + b"\0\0\x10\0appended by a phone"),
        ("mp4", lambda data: data + struct.pack(">I", 9) + b"free."),
        ("mp4", lambda data: data + struct.pack(">I4sQ", 1, b"free", 16)),
        ("mkv", lambda data: data + bytes(500)),
        ("avi", lambda data: data + b"tail"),
        ("avi", lambda data: data[:4] + struct.pack("<I", len(data)) + data[8:]),
        ("avi", lambda data: data[:4] + bytes(4) + data[8:]),
    ],
)
def test_what_does_not_match_in_a_whole_video_is_no_damage(tmp_path, kind, edit):
    (tmp_path / f"clip.{kind}").write_bytes(edit(write_video(tmp_path / f"whole.{kind}").read_bytes()))
    assert len(read(tmp_path / f"clip.{kind}")) == FRAMES


@pytest.mark.parametrize(("kind", "later"), [("ts", 0), ("ts", 2000), ("mpg", 0)])
@pytest.mark.parametrize("frames", [12, 40])
def test_joined_recordings_play_one_after_the_other(tmp_path, kind, frames, later):
    first = write_video(tmp_path / f"a.{kind}", range(frames), codec="mpeg2video")
    second = write_video(tmp_path / f"b.{kind}", range(later, later + frames), codec="mpeg2video")
    (tmp_path / f"joined.{kind}").write_bytes(first.read_bytes() + second.read_bytes() + first.read_bytes())
    images = read(tmp_path / f"joined.{kind}")
    assert len(images) == 3 * frames
    runs = [images[at : at + frames] for at in (0, frames, 2 * frames)]
    for run in runs:
        assert {b.stamp_ns - a.stamp_ns for a, b in itertools.pairwise(run)} == {PERIOD_NS}
        for index, recorded in enumerate(run):
            assert np.abs(decode_image(recorded.image, 10**6).astype(int) - picture(index)).mean() < 10
    assert runs[2][0].stamp_ns < runs[0][-1].stamp_ns  # the stream notices, and starts afresh


@pytest.mark.parametrize("at", [0.2, 0.5, 0.8])
def test_a_transport_stream_that_lacks_a_packet_is_an_error(tmp_path, at):
    data = write_video(tmp_path / "whole.ts", range(40), codec="mpeg2video").read_bytes()
    packets = [data[start : start + 188] for start in range(0, len(data), 188)]
    video = [index for index, packet in enumerate(packets) if packet[1:3] in (b"\x01\x00", b"\x41\x00")]
    del packets[video[int(len(video) * at)]]
    (tmp_path / "hole.ts").write_bytes(b"".join(packets))
    with pytest.raises(SourceError, match=r"hole\.ts is cut or damaged \(packets are missing"):
        read(tmp_path / "hole.ts")


@pytest.mark.parametrize(
    ("name", "codec", "container"),
    [
        ("raw.mjpeg", "mjpeg", "mjpeg"),
        ("raw.h264", "libx264", "h264"),
        ("raw.m4v", "mpeg4", "m4v"),
        ("raw.m2v", "mpeg2video", "mpeg2video"),
        ("raw", "mjpeg", "mjpeg"),
        ("dump.mjpg", "mjpeg", "mpjpeg"),
    ],
)
def test_a_stream_without_times_is_refused_with_the_way_to_give_them(tmp_path, name, codec, container):
    write_video(tmp_path / name, codec=codec, container=container)
    stem = name.partition(".")[0]
    with pytest.raises(SourceError, match=rf"{name} is a raw .* without times.*`ffmpeg -r FPS -i {name} {stem}\.mp4`"):
        read(tmp_path / name)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ""])
def test_a_picture_is_no_video(tmp_path, suffix):
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(cv2.imencode(suffix or ".png", picture(0))[1].tobytes())
    with pytest.raises(SourceError, match=rf"photo{suffix} is a picture"):
        open_source(path)


def test_a_colon_in_a_name_is_no_protocol(video, tmp_path, monkeypatch):
    (tmp_path / "2024-01-01T10:00:00.mp4").write_bytes(video.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert len(read("2024-01-01T10:00:00.mp4")) == FRAMES


def test_names_that_are_no_utf8_in_a_video_are_no_obstacle(tmp_path):
    data = write_video(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "clip.mp4").write_bytes(data.replace(b"Lavf", b"\xff\xfe\xe9\x80"))
    assert len(read(tmp_path / "clip.mp4")) == FRAMES


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
