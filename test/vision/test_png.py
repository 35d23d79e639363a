"""A PNG is sized by its first chunk, and decoded without those of its chunks that make no picture."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from image_messages import MAX_PIXELS, Compressed, encoded, gradient, picture_of, png_that_claims, refusal

from saccade_ros.vision.images import check_image
from saccade_ros.vision.malformed import MalformedImage
from saccade_ros.vision.png import critical_chunks, png_header

PNG = encoded(".png", gradient(480, 640))


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(*parts: bytes, size: tuple[int, int] = (64, 48), kind: tuple[int, int] = (8, 2)) -> bytes:
    """A PNG of these chunks; `kind` is the depth and the colour type."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, *kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(parts) + chunk(b"IEND", b"")


def rows(height: int, row: bytes) -> bytes:
    return (b"\0" + row) * height


def with_chunks(data: bytes, *chunks: bytes) -> bytes:
    return data[:33] + b"".join(chunks) + data[33:]  # behind IHDR


TEXT = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_000_000)))
ANCILLARY = {
    "text": TEXT,
    "gamma": chunk(b"gAMA", struct.pack(">I", 10_000)),
    "profile": chunk(b"iCCP", b"odd\0\0" + zlib.compress(bytes(200))),
    "time": chunk(b"tIME", bytes(7)),
}


def test_the_size_is_in_the_first_chunk():
    assert png_header(memoryview(PNG)) == (640, 480, 8, 3)
    with pytest.raises(MalformedImage, match="no IHDR"):
        png_header(memoryview(PNG[:20]))


@pytest.mark.parametrize("name", ANCILLARY)
def test_ancillary_chunks_are_left_out_and_change_nothing(name):
    data = with_chunks(PNG, ANCILLARY[name])
    assert critical_chunks(np.frombuffer(data, np.uint8)).tobytes() == PNG
    assert np.array_equal(picture_of(Compressed(data, "png")), gradient(480, 640))


def test_a_png_without_ancillary_chunks_is_not_copied():
    data = np.frombuffer(PNG, np.uint8)
    assert critical_chunks(data) is data


def test_many_chunks_are_refused_before_they_are_read(monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the bomb was decoded"))
    error = refusal(Compressed(with_chunks(PNG, *[TEXT] * 1000), "png"))
    assert (error.cause, "too many chunks" in str(error)) == ("undecodable", True)
    error = refusal(Compressed(with_chunks(PNG, *[chunk(b"IDAT", b"")] * 100_000), "png"))
    assert "too many chunks" in str(error)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_with_transparency_keeps_its_colours(bits):
    palette = chunk(b"PLTE", bytes([9, 8, 7, 200, 100, 50])) + chunk(b"tRNS", bytes([0, 128]))
    data = png(palette, chunk(b"IDAT", zlib.compress(rows(48, bytes(8 * bits)))), kind=(bits, 3))
    assert picture_of(Compressed(data, "png")).tolist() == [[[9, 8, 7]] * 64] * 48


@pytest.mark.parametrize("at", range(1, 10))
def test_a_cut_is_refused_also_with_an_end_behind_it(at):
    cut = PNG[: len(PNG) * at // 10]
    for data in (cut, cut + PNG[-12:]):
        assert refusal(Compressed(data, "png")).cause == "undecodable"


def test_missing_rows_with_right_checksums_are_refused():
    half = chunk(b"IDAT", zlib.compress(rows(24, bytes(64 * 3))))
    assert refusal(Compressed(png(half), "png")).cause == "undecodable"


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_chunk_is_refused(lost):
    body = zlib.compress(rows(48, np.random.default_rng(0).bytes(64 * 3)))
    parts = [chunk(b"IDAT", body[:150]), chunk(b"IDAT", body[150:])]
    assert np.ptp(picture_of(Compressed(png(*parts), "png"))) > 0
    del parts[lost]
    assert refusal(Compressed(png(*parts), "png")).cause == "undecodable"


def test_fewer_bytes_than_any_picture_of_its_size_takes_are_refused_by_the_header():
    small = png_that_claims(1000, 1000)[:400]
    with pytest.raises(MalformedImage, match="1000 x 1000 pixels take at least 29"):
        check_image(Compressed(small, "png"), MAX_PIXELS)


@pytest.mark.parametrize("kind", [(1, 0), (8, 0), (8, 2), (16, 6)])
def test_the_smallest_picture_of_a_size_passes(kind):
    depth, colour = kind
    bits = depth * {0: 1, 2: 3, 6: 4}[colour]
    data = zlib.compress(rows(1000, bytes(1000 * bits // 8)), 9)
    shown = picture_of(Compressed(png(chunk(b"IDAT", data), size=(1000, 1000), kind=kind), "png"))
    assert (shown == 0).all()
