"""The benchmark's arithmetic: what a step must do, and how fast that could be."""

from pathlib import Path

import pytest
import torch
from clips import write_video

from saccade_ros.encoder.spec import SIZES
from saccade_ros.studies.floor import Rates, Work, step_work
from saccade_ros.studies.step import read_clip


def test_work_of_a_vitl_step_counted_by_hand():
    """24 layers: 12 D^2 weights over 256 tokens; scores and sums over 2048 keys; weights, keys, values read once."""
    work = step_work(SIZES["vitl"], window=8, recompute=1, batch=1, precision="bf16")
    assert work.flops == 24 * (2 * 256 * 12 * 1024**2 + 4 * 256 * 2048 * 1024)
    assert work.bytes == 2 * 24 * (12 * 1024**2 + 2 * 2048 * 1024)


def test_int8_reads_each_weight_in_a_byte():
    work = step_work(SIZES["vitl"], window=8, recompute=1, batch=1, precision="int8")
    assert work.bytes == 24 * (12 * 1024**2 + 2 * 2 * 2048 * 1024)


def test_streams_share_the_weights_but_not_the_cache():
    one, four = (step_work(SIZES["vitl"], 8, 1, batch, "bf16") for batch in (1, 4))
    assert four.flops == 4 * one.flops
    assert one.bytes < four.bytes < 4 * one.bytes


def test_floor_is_the_slower_of_arithmetic_and_memory():
    assert Rates(1e12, 5e11, bytes=1e9).floor_ms(Work(3e9, 1e9, bytes=1e6)) == pytest.approx(5.0)
    assert Rates(1e12, 5e11, bytes=1e9).floor_ms(Work(3e8, 1e8, bytes=7e6)) == pytest.approx(7.0)


def test_a_clip_that_is_too_short_is_repeated(tmp_path: Path):
    short = read_clip(write_video(tmp_path / "clip.mp4"), 1000, 64)
    assert short.shape == (1000, 2, 3, 64, 64)
    period = next(n for n in range(1, 1000) if torch.equal(short[n], short[0]))
    assert torch.equal(short[:-period], short[period:])
