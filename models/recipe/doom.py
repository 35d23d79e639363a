"""Walks through Freedoom's maps, rendered by ViZDoom: real parallax, doors, figures and lights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import vizdoom
from scenes import SIDE, Picture, Random, Sway, draw_speed

TRAINED_MAPS = tuple(f"MAP{i:02}" for i in range(1, 31) if i not in (7, 15, 23, 30))
HELD_OUT_MAPS = ("MAP07", "MAP15", "MAP23", "E1M4")
EPISODES = tuple(f"E{episode}M{mission}" for episode in (1, 2, 3) for mission in (1, 2, 3, 5, 6, 7, 8))


class DoomMap:
    """One map, to be walked through many times; close it in the end."""

    def __init__(self, name: str, seed: int) -> None:
        phase = 2 if name.startswith("MAP") else 1
        self._game = game = vizdoom.DoomGame()
        game.set_doom_game_path(str(Path(vizdoom.__file__).with_name(f"freedoom{phase}.wad")))
        game.set_doom_map(name)
        game.set_screen_resolution(vizdoom.ScreenResolution.RES_400X300)
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        for hide in ("window_visible", "render_hud", "render_weapon", "render_crosshair", "render_messages"):
            getattr(game, f"set_{hide}")(False)
        game.set_sectors_info_enabled(True)
        game.set_seed(seed)
        game.set_episode_timeout(0)
        button = vizdoom.Button
        game.set_available_buttons(
            [
                button.TURN_LEFT_RIGHT_DELTA,
                button.LOOK_UP_DOWN_DELTA,
                button.MOVE_FORWARD_BACKWARD_DELTA,
                button.MOVE_LEFT_RIGHT_DELTA,
            ]
        )
        game.init()
        for command in ("god", "notarget", "cl_showsecretmessage 0"):
            game.send_game_command(command)
        self._spots = [_middle(sector) for sector in game.get_state().sectors if len(sector.lines) > 3]

    def close(self) -> None:
        """End the engine."""
        self._game.close()

    def walk(self, random: Random, pace: float | None = None) -> Iterator[Picture]:
        """Walk from a random place on, at a pace as draw_speed gives it, or drawn; 35/3 frames per second of the game."""
        self._place(random)
        gain, colour = random.uniform(0.9, 2.2), random.normal(1, 0.08, 3)
        speed = draw_speed(random) if pace is None else pace
        turn, look = Sway(random, 0, 2.0 * speed), Sway(random, 0, 0.12 * speed)
        ahead, aside = random.uniform(-2, 9) * speed, random.normal(0, 3) * speed
        pitch = random.normal(0, 4)  # degrees
        self._game.make_action([0, pitch, 0, 0])
        while True:
            screen = self._game.get_state().screen_buffer[:, 50:350]  # (300, 300, 3)
            frame = cv2.resize(screen, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            yield np.clip(frame * (gain * colour), 0, 255).astype(np.uint8)
            change = look.step() - 0.15 * pitch  # back to the horizon
            pitch += 3 * change
            self._game.make_action([turn.step(), change, ahead, aside], 3)
            if self._game.is_episode_finished():
                self._game.new_episode()
                self._place(random)

    def _place(self, random: Random) -> None:
        """Go to a place from which something can be seen: not in a wall, not in the dark."""
        for _ in range(20):
            x, y = self._spots[int(random.integers(len(self._spots)))]
            self._game.send_game_command(f"warp {int(x)} {int(y)}")
            self._game.make_action([random.uniform(0, 90), 0, 0, 0], 4)
            screen = self._game.get_state().screen_buffer
            if screen.mean() > 18 and screen.std() > 18:
                return


def _middle(sector: Any) -> tuple[float, float]:
    """Mean of a sector's corners."""
    corners = np.array([(line.x1, line.y1) for line in sector.lines])
    x, y = corners.mean(axis=0)
    return float(x), float(y)
