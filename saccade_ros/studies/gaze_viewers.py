"""Viewers of a clip: each has a canvas, is sent some patches of each tubelet, and is measured against the picture."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from saccade_ros.frames import Picture, Pixels
from saccade_ros.measure.progress import Progress
from saccade_ros.measure.ssim import ssim
from saccade_ros.plan.residual import psnr, update_canvas
from saccade_ros.recordings.clip import Clip
from saccade_ros.studies.gaze_rules import (
    GREEDY,
    RANDOM,
    UNIFORM,
    BlindRule,
    RandomRule,
    Setting,
    TokenIdx,
    UniformRule,
    choose_greedily,
)
from saccade_ros.vision.preprocess import grey_levels, normalize_all

EXACT_DB = 100.0  # the PSNR of a canvas that shows the picture exactly, and the most that is stated
MOMENTS = 6  # of a clip, kept as pictures

Row = dict[str, Any]
Who = tuple[str, str]  # names of a viewer's setting and rule


class Look(NamedTuple):
    """Patches of one tubelet that a viewer was sent, of how many, and what choosing and showing them took."""

    token_idx: TokenIdx
    of: int
    selection_ms: float
    reconstruction_ms: float


class Viewer:
    """One canvas. Its first tubelet is sent whole, as a stream's plan is dense after a reset.

    Attributes:
        canvas: pixels (2, 3, H, W), each patch as it was when it was last sent.
    """

    canvas: Pixels

    def __init__(self, patch_size: int) -> None:
        self._patch_size, self._started = patch_size, False

    def look(self, pixels: Pixels, choose: Callable[[], TokenIdx]) -> Look:
        """Choose patches of the next tubelet and show them."""
        tokens = pixels[0, 0].size // self._patch_size**2
        if not self._started:
            self.canvas, self._started = np.zeros_like(pixels), True
            choose = partial(np.arange, tokens)
        started = time.perf_counter()
        token_idx = choose()
        chosen = time.perf_counter()
        update_canvas(self.canvas, pixels, token_idx, self._patch_size)
        return Look(token_idx, tokens, (chosen - started) * 1e3, (time.perf_counter() - chosen) * 1e3)


class ViewersOfSetting:
    """Three viewers who are sent equally many patches of each tubelet: as many as the greedy rule asks for.

    Attributes:
        viewers: by the name of the rule.
    """

    def __init__(self, setting: Setting, grid: int, patch_size: int, seed: int) -> None:
        self._setting, self._patch_size = setting, patch_size
        self._blind: dict[str, BlindRule] = {UNIFORM: UniformRule(grid), RANDOM: RandomRule(grid, seed)}
        self.viewers = {rule: Viewer(patch_size) for rule in (GREEDY, *self._blind)}

    def look(self, pixels: Pixels) -> dict[str, Look]:
        """Send the next tubelet to each of them; the look of each rule."""
        ours = self.viewers[GREEDY]
        look = ours.look(pixels, lambda: choose_greedily(pixels, ours.canvas, self._patch_size, self._setting))
        choices = {name: partial(rule.choose, len(look.token_idx)) for name, rule in self._blind.items()}
        return {GREEDY: look, **{name: self.viewers[name].look(pixels, choose) for name, choose in choices.items()}}


class Moment(NamedTuple):
    """One tubelet as pictures, its newer frame: the original, and by viewer its row, patches sent and canvas."""

    original: Picture
    rows: dict[Who, Row]
    sent: dict[Who, TokenIdx]
    shown: dict[Who, Picture]


@dataclass
class ClipGaze:
    """Record of what the viewers of one clip were sent and saw.

    Attributes:
        rows: one for each tubelet and viewer.
        sent: how often each patch was sent to a viewer, (S,).
    """

    name: str
    tubelets: int
    seconds: float
    rows: list[Row] = field(default_factory=list)
    sent: dict[Who, npt.NDArray[np.int64]] = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=list)


def show_clip(
    name: str, clip: Clip, settings: tuple[Setting, ...], patch_size: int, seed: int, progress: Progress
) -> ClipGaze:
    """Show a clip to the viewers of all settings, from its first tubelet on."""
    grid = clip.pictures.shape[-2] // patch_size
    stamps_s = (clip.stamps_ns - clip.stamps_ns[0]) / 1e9
    parties = {setting.name: ViewersOfSetting(setting, grid, patch_size, seed) for setting in settings}
    found = ClipGaze(name, len(clip), float(stamps_s[-1]))
    kept = set(np.linspace(0, len(clip) - 1, min(MOMENTS, len(clip))).astype(int).tolist())
    for index, pictures in enumerate(clip.pictures):
        progress(f"showing {name}", index / len(clip))
        pixels, place = normalize_all(pictures), {"tubelet": index, "stamp_s": float(stamps_s[index])}
        looks = {(of, rule): look for of, party in parties.items() for rule, look in party.look(pixels).items()}
        canvases = {(of, rule): one.canvas for of, party in parties.items() for rule, one in party.viewers.items()}
        rows = {who: _row(name, who, place, look, pixels, canvases[who]) for who, look in looks.items()}
        found.rows += rows.values()
        for who, look in looks.items():
            found.sent.setdefault(who, np.zeros(grid * grid, np.int64))[look.token_idx] += 1
        if index in kept:
            sent = {who: look.token_idx for who, look in looks.items()}
            shown = {who: _newer_picture(canvas) for who, canvas in canvases.items()}
            found.moments.append(Moment(pictures[1], rows, sent, shown))
    return found


def _row(name: str, who: Who, place: Row, look: Look, pixels: Pixels, canvas: Pixels) -> Row:
    return {
        "clip": name,
        "setting": who[0],
        "rule": who[1],
        **place,
        "tokens": len(look.token_idx),
        "actual_ratio": len(look.token_idx) / look.of,
        **canvas_errors(pixels, canvas),
        "selection_ms": look.selection_ms,
        "reconstruction_ms": look.reconstruction_ms,
    }


def canvas_errors(pixels: Pixels, canvas: Pixels) -> Row:
    """Measure how far a canvas is from the picture, both (2, 3, H, W).

    Returns:
        reconstruction_loss: mean squared error of the normalised pixels.
        pixel_mae, pixel_mse: mean absolute and mean squared error in grey levels.
        psnr_db, ssim: of grey levels; SSIM of the brightness.
    """
    picture, shown = grey_levels(pixels), grey_levels(canvas)
    difference = shown - picture
    mse = float(np.square(difference).mean())
    return {
        "reconstruction_loss": float(np.square(canvas - pixels).mean()),
        "pixel_mae": float(np.abs(difference).mean()),
        "pixel_mse": mse,
        "psnr_db": min(psnr(mse), EXACT_DB),
        "ssim": ssim(shown, picture),
    }


def _newer_picture(canvas: Pixels) -> Picture:
    levels = grey_levels(canvas)[1].transpose(1, 2, 0)  # (H, W, 3)
    picture: Picture = np.round(levels).clip(0, 255).astype(np.uint8)
    return picture
