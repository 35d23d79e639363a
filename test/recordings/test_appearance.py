"""A video's pictures are shown as its container says, and what is not honoured is told with its remedy."""

import logging
from fractions import Fraction

import av
import numpy as np
import pytest
from recorded import read

from saccade_ros.recordings import open_source
from saccade_ros.recordings.source import SourceError

WIDTH, HEIGHT = 96, 64
LUMA = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}


def scene() -> np.ndarray:
    """Red slopes to the right, green downwards; a green mark in the upper left corner, a red one lower right."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    picture = np.stack([255 * x / (WIDTH - 1), 255 * y / (HEIGHT - 1), np.full_like(x, 90)], -1).astype(np.uint8)
    picture[4:20, 4:20] = 20, 220, 40
    picture[40:56, 60:80] = 230, 10, 60
    return picture


def yuv444(picture, matrix, is_full):
    """The three planes, by the matrix's definition."""
    red, green, blue = np.moveaxis(picture / 255.0, -1, 0)
    of_red, of_blue = LUMA[matrix]
    luma = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    chroma = (blue - luma) / (2 * (1 - of_blue)), (red - luma) / (2 * (1 - of_red))
    planes = [255 * luma if is_full else 16 + 219 * luma]
    planes += [128 + (255 if is_full else 224) * plane for plane in chroma]
    return [np.clip(np.round(plane), 0, 255).astype(np.uint8) for plane in planes]


def frame_of(planes, pixel_format):
    frame = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], pixel_format)
    for plane, samples in zip(frame.planes, planes, strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        stored = samples.view(np.uint8).reshape(plane.height, -1)
        rows[:, : stored.shape[1]] = stored
        plane.update(rows.tobytes())
    return frame


def write(path, frame, count=3, codec="ffv1", metadata=None, **context):
    """A lossless video of one frame; `context` sets the encoder's attributes."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, frame.format.name
        stream.metadata.update(metadata or {})
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        for pts in range(count):
            frame.pts = pts
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def rgb_frame(picture=None):
    return av.VideoFrame.from_ndarray(scene() if picture is None else picture, format="rgb24").reformat(format="bgr0")


def shown(path) -> np.ndarray:
    return read(path)[0].image.astype(int)


@pytest.mark.parametrize("is_full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", [1, 5, 6, 7, 9, None])
def test_matrix_and_range_are_those_that_the_file_names(tmp_path, matrix, is_full):
    frame = frame_of(yuv444(scene(), matrix or 5, is_full), "yuv444p")
    frame.color_range = 2 if is_full else 1
    tags = {"color_range": int(frame.color_range)}
    if matrix:
        frame.colorspace = tags["colorspace"] = matrix
    assert np.abs(shown(write(tmp_path / "tagged.mkv", frame, **tags)) - scene()).max() <= 2


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), lambda p: p),
        ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
        ((1, 0, 0, -1), lambda p: p[::-1]),
        ((-1, 0, 0, -1), lambda p: p[::-1, ::-1]),
        ((0, 1, 1, 0), lambda p: p.transpose(1, 0, 2)),
        ((0, 1, -1, 0), lambda p: np.rot90(p, 3)),
        ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
        ((0, -1, -1, 0), lambda p: np.rot90(p.transpose(1, 0, 2), 2)),
    ],
)
def test_each_rotation_and_flip_is_undone(video, tmp_path, matrix, expected):
    plain = shown(video)
    assert np.array_equal(shown(oriented(video, tmp_path, matrix)), expected(plain))


def oriented(video, folder, matrix):
    data = bytearray(video.read_bytes())
    at = data.index(b"tkhd") + 44  # the track's display matrix, ISO/IEC 14496-12 8.3.2
    a, b, c, d = (round(part * 65536) for part in matrix)
    data[at : at + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes()
    (folder / "oriented.mp4").write_bytes(data)
    return folder / "oriented.mp4"


@pytest.mark.parametrize(("ratio", "width"), [("2:1", 192), ("8:9", 85), ("4:3", 128), ("1:2", 48), ("1:1", 96)])
def test_pixels_are_shown_square(tmp_path, ratio, width):
    frame = av.VideoFrame.from_ndarray(scene(), format="rgb24").reformat(format="yuv420p")
    tags = {"sample_aspect_ratio": Fraction(ratio.replace(":", "/")), "bit_rate": 4_000_000}
    picture = shown(write(tmp_path / "pixels.avi", frame, codec="mpeg4", **tags))
    assert picture.shape == (HEIGHT, width, 3)
    left, right = 12 * width // WIDTH, 70 * width // WIDTH
    assert np.abs(picture[12, left] - (20, 220, 40)).max() <= 12
    assert np.abs(picture[48, right] - (230, 10, 60)).max() <= 12


def with_preview(path):
    """A small stream first, the default one second."""
    with av.open(str(path), "w") as container:
        pictures = np.full((20, 32, 3), 200, np.uint8), scene()
        streams = [container.add_stream("mpeg4", rate=10) for _ in pictures]
        for stream, picture in zip(streams, pictures, strict=True):
            stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "yuv420p"
        streams[1].disposition = type(streams[1].disposition).default.value
        for pts in range(12):
            for stream, picture in zip(streams, pictures, strict=True):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = pts
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


def test_the_best_stream_is_read_not_the_first(tmp_path):
    images = read(with_preview(tmp_path / "preview.mp4"))
    assert (len(images), images[0].image.shape) == (12, (HEIGHT, WIDTH, 3))


def with_cover(path, with_video):
    """A song, or a film, whose cover picture is a video stream to FFmpeg; the cover comes first."""
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 80, 80, "yuvj420p"
        cover.disposition = type(cover.disposition).attached_pic.value
        sound = container.add_stream("aac", rate=8000)
        film = container.add_stream("mpeg4", rate=10) if with_video else None
        if film:
            film.width, film.height, film.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        frame = av.VideoFrame(80, 80, "yuvj420p")
        frame.pts = 0
        container.mux([*cover.encode(frame), *cover.encode(None)])
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.rate, silence.pts = 8000, 0
        container.mux([*sound.encode(silence), *sound.encode(None)])
        for pts in range(6 if film else 0):
            moving = av.VideoFrame.from_ndarray(scene(), format="rgb24")
            moving.pts = pts
            container.mux(film.encode(moving))
        if film:
            container.mux(film.encode(None))
    return path


def test_a_cover_picture_is_no_video(tmp_path):
    with pytest.raises(SourceError, match=r"song\.mp4 has no video"):
        open_source(with_cover(tmp_path / "song.mp4", with_video=False))
    images = read(with_cover(tmp_path / "film.mp4", with_video=True))
    assert (len(images), images[0].image.shape) == (6, (HEIGHT, WIDTH, 3))


def deep_grey():
    return frame_of([np.full((HEIGHT, WIDTH), 3000, "<u2")], "gray16le")


REMARKS = {
    "HDR (HLG)": (rgb_frame, {"color_trc": 18}),
    "HDR (PQ)": (rgb_frame, {"color_trc": 16}),
    "linear light": (rgb_frame, {"color_trc": 8}),
    "grey of 16 bits": (deep_grey, {}),
    "stereo pair": (rgb_frame, {"metadata": {"stereo_mode": "left_right"}}),
}


@pytest.mark.parametrize("says", REMARKS)
def test_what_is_not_honoured_is_told_once(tmp_path, caplog, says):
    make, tags = REMARKS[says]
    path = write(tmp_path / "odd.mkv", make(), **tags)
    with caplog.at_level(logging.WARNING):
        assert len(read(path)) == 3
    (told,) = caplog.messages
    assert told.startswith("odd.mkv ")
    assert says in told


def test_an_interlaced_video_is_told(tmp_path, caplog):
    flags = av.codec.context.Flags
    frame = av.VideoFrame.from_ndarray(scene(), format="rgb24").reformat(format="yuv420p")
    path = write(tmp_path / "fields.avi", frame, codec="mpeg2video", flags=flags.interlaced_dct | flags.interlaced_me)
    with caplog.at_level(logging.WARNING):
        read(path)
    assert any("fields.avi is interlaced" in told and "bwdif" in told for told in caplog.messages)


def test_an_odd_angle_is_told(video, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        tilted = shown(oriented(video, tmp_path, (0.7, 0.7, -0.7, 0.7)))
    assert np.array_equal(tilted, shown(video))
    assert "none of 0, 90, 180 and 270 degrees" in caplog.text


def test_nothing_is_told_of_an_ordinary_video(video, caplog):
    with caplog.at_level(logging.WARNING):
        read(video)
    assert not caplog.messages
