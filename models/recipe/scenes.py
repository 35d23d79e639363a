"""Rendered clips to train and to judge on: panoramas turned, rooms walked through, pictures panned over, Doom maps.

Each renderer is a generator of square RGB frames (SIDE, SIDE, 3) uint8 from a numpy random generator, endless, so that
a clip is its first frames. Motion is smooth, with speeds from standing still to a third of the picture per frame.
"""

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]  # (H, W, 3)
Panorama = npt.NDArray[np.float32]  # (H, 2H, 3), linear radiance
Random = np.random.Generator
SIDE = 256


class Sway:
    """Smooth random motion of one value: its speed wanders around a mean.

    Args:
        speed: typical change per frame.
    """

    def __init__(self, random: Random, start: float, speed: float) -> None:
        self._random, self._value, self._scale = random, start, abs(speed)
        self._velocity = speed * random.normal()

    def step(self) -> float:
        """Return the value and move it on."""
        value = self._value
        self._velocity += 0.25 * (self._scale * self._random.normal() - 0.3 * self._velocity)
        self._value += self._velocity
        return value


def draw_speed(random: Random) -> float:
    """Draw the pace of a clip: 0 for a camera that stands still (one clip in five), else log-uniform 0.05 to 2."""
    return 0.0 if random.random() < 0.2 else float(np.exp(random.uniform(np.log(0.05), np.log(2.0))))


def rotation(yaw: float, pitch: float, roll: float) -> npt.NDArray[np.float64]:
    """Matrix from camera coordinates (right, down, forward) to the world's, angles in radians: (3, 3)."""
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (yaw, pitch, roll))
    around_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    around_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    around_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    matrix: npt.NDArray[np.float64] = around_y @ around_x @ around_z
    return matrix


def rays(field_of_view: float) -> npt.NDArray[np.float32]:
    """Directions of a pinhole camera's pixels, forward component 1: (3, SIDE, SIDE)."""
    reach = np.tan(field_of_view / 2)
    across = np.linspace(-reach, reach, SIDE, dtype=np.float32)
    x, y = np.meshgrid(across, across)
    return np.stack((x, y, np.ones_like(x)))


def turned(directions: npt.NDArray[np.float32], by: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Rotate directions (3, SIDE, SIDE)."""
    return np.tensordot(by.astype(np.float32), directions, axes=1)


# Panoramas


def tone_map(radiance: Panorama, exposure: float, gamma: float) -> Picture:
    """Map linear radiance to a picture; an exposure of 1 makes the median a middle grey."""
    level = np.maximum(np.nan_to_num(radiance, posinf=1e4), 0) * (
        0.18 * exposure / max(1e-4, float(np.median(radiance)))
    )
    mapped = (level * (1 + level / 16) / (1 + level)) ** (1 / gamma)
    return np.clip(255 * mapped, 0, 255).astype(np.uint8)


def look_around(panorama: Picture, yaw: float, pitch: float, roll: float, field_of_view: float) -> Picture:
    """Picture of a camera in the middle of an equirectangular panorama (H, 2H, 3): (SIDE, SIDE, 3)."""
    height, width = panorama.shape[:2]
    right, down, ahead = turned(rays(field_of_view), rotation(yaw, pitch, roll))
    longitude, latitude = np.arctan2(right, ahead), np.arctan2(down, np.hypot(right, ahead))
    u = (longitude / (2 * np.pi) + 0.5) * width - 0.5
    v = (latitude / np.pi + 0.5) * height - 0.5
    return cv2.remap(panorama, u, v, cv2.INTER_CUBIC, borderMode=cv2.BORDER_WRAP)


def panorama_clip(panorama: Panorama, random: Random, pace: float | None = None) -> Iterator[Picture]:
    """Turn, tilt and zoom in a panorama, at a pace as draw_speed gives it, or drawn."""
    exposure, gamma = float(np.exp(random.normal(0, 0.5))), random.uniform(1.8, 2.6)
    picture = tone_map(panorama, exposure, gamma)
    picture = picture[:, ::-1].copy() if random.random() < 0.5 else picture
    speed = draw_speed(random) if pace is None else pace
    yaw = Sway(random, random.uniform(-np.pi, np.pi), 0.12 * speed)
    pitch = Sway(random, random.normal(0, 0.25), 0.05 * speed)
    roll = Sway(random, random.normal(0, 0.1), 0.02 * speed)
    view = Sway(random, np.radians(random.uniform(40, 95)), 0.02 * speed)
    while True:
        yield look_around(
            picture, yaw.step(), float(np.clip(pitch.step(), -1, 1)), roll.step(), float(np.clip(view.step(), 0.5, 1.9))
        )


# Pictures


def picture_clip(picture: Picture, random: Random) -> Iterator[Picture]:
    """Pan, zoom and tilt over a picture as if it hung on a wall."""
    height, width = picture.shape[:2]
    speed, side = draw_speed(random), min(height, width) * random.uniform(0.35, 0.9)
    x, y = (Sway(random, random.uniform(0.3, 0.7) * size, 0.08 * side * speed) for size in (width, height))
    zoom, turn = Sway(random, 0.0, 0.05 * speed), Sway(random, random.normal(0, 0.15), 0.03 * speed)
    skew = random.normal(0, 0.12, size=(4, 2))
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) + skew
    target = np.array([[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE]], dtype=np.float32)
    while True:
        reach, angle = 0.5 * side * np.exp(np.clip(zoom.step(), -0.8, 0.8)), turn.step()
        spun = corners @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        source = (np.array([x.step(), y.step()]) + reach * spun).astype(np.float32)
        matrix = cv2.getPerspectiveTransform(source, target)
        yield cv2.warpPerspective(picture, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


# Rooms


class Box:
    """Box with a texture on every face, seen from outside (furniture) or from inside (the room)."""

    def __init__(
        self, low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], textures: list[Picture], random: Random
    ) -> None:
        self.low, self.high = low.astype(np.float32), high.astype(np.float32)
        self._faces = [textures[int(random.integers(len(textures)))] for _ in range(6)]
        if random.random() < 0.7:
            self._faces[1] = self._faces[4] = self._faces[5] = self._faces[0]  # walls alike
        self._tile = np.exp(random.uniform(np.log(0.6), np.log(5.0), size=6))  # metres that a texture spans
        self._light = random.uniform(0.45, 1.1, size=6)

    def hit(
        self, origin: npt.NDArray[np.float32], towards: npt.NDArray[np.float32], inside: bool
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Distance along each ray (infinite where it misses) and face (axis + 3 if on the far side): (SIDE, SIDE)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            bounds = ((bound - origin)[:, None, None] / towards for bound in (self.low, self.high))  # (3, SIDE, SIDE)
            to_low, to_high = bounds
        first, last = np.minimum(to_low, to_high), np.maximum(to_low, to_high)
        entry, leave = first.max(axis=0), last.min(axis=0)
        axis = last.argmin(axis=0) if inside else first.argmax(axis=0)
        ahead = np.take_along_axis(towards, axis[None], axis=0)[0] > 0
        if inside:
            return leave, axis + 3 * ahead
        return np.where((entry < leave) & (entry > 0.05), entry, np.float32(np.inf)), axis + 3 * ~ahead

    def paint(
        self, into: Picture, where: npt.NDArray[np.bool_], points: npt.NDArray[np.float32], faces: npt.NDArray[np.int64]
    ) -> None:
        """Paint the pixels `where` the box is seen, from the points that the rays hit."""
        rows, columns = np.nonzero(where)
        faces, points = faces[rows, columns], points[:, rows, columns]  # (N,), (3, N)
        for face in np.unique(faces):
            mask, across = faces == face, [axis for axis in (0, 2, 1) if axis != face % 3]
            seen = self._look_up(int(face), points[across][:, mask].T)
            into[rows[mask], columns[mask]] = np.clip(seen * self._light[face], 0, 255)

    def _look_up(self, face: int, at: npt.NDArray[np.float32]) -> Picture:
        """Colours of a face's texture, repeated, at points (N, 2) in metres: (N, 3)."""
        texture = self._faces[face]
        uv = at * np.float32(len(texture) / self._tile[face]) % len(texture)
        uv = np.resize(uv, (-(-len(at) // SIDE), SIDE, 2))  # remap takes no more than 32767 rows
        seen = cv2.remap(texture, uv, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        return seen.reshape(-1, 3)[: len(at)]


def room_clip(textures: list[Picture], random: Random) -> Iterator[Picture]:
    """Walk through a room of textured walls with boxes in it."""
    size = np.array([random.uniform(3, 12), random.uniform(2.2, 4.5), random.uniform(3, 12)])
    room = Box(np.zeros(3), size, textures, random)
    furniture = [_furniture(size, textures, random) for _ in range(int(random.integers(1, 4)))]
    speed = draw_speed(random)
    at = [Sway(random, random.uniform(0.3, 0.7) * size[axis], 0.1 * speed) for axis in (0, 2)]
    eye = size[1] - random.uniform(0.8, 1.9)
    yaw, pitch = (
        Sway(random, random.uniform(-np.pi, np.pi), 0.1 * speed),
        Sway(random, random.normal(0, 0.15), 0.02 * speed),
    )
    towards_camera = rays(np.radians(random.uniform(55, 95)))
    while True:
        x, z = (float(np.clip(s.step(), 0.4, size[axis] - 0.4)) for s, axis in zip(at, (0, 2), strict=True))
        origin = np.array([x, eye, z], dtype=np.float32)
        towards = turned(towards_camera, rotation(yaw.step(), pitch.step(), 0.0))
        yield _trace(room, furniture, origin, towards)


def _furniture(size: npt.NDArray[np.float64], textures: list[Picture], random: Random) -> Box:
    extent = np.array([random.uniform(0.3, 1.6), random.uniform(0.3, 2.0), random.uniform(0.3, 1.6)])
    low = np.array(
        [random.uniform(0, size[0] - extent[0]), size[1] - extent[1], random.uniform(0, size[2] - extent[2])]
    )
    return Box(low, low + extent, textures, random)


def _trace(
    room: Box, furniture: list[Box], origin: npt.NDArray[np.float32], towards: npt.NDArray[np.float32]
) -> Picture:
    into: Picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    hits = [room.hit(origin, towards, inside=True), *(box.hit(origin, towards, inside=False) for box in furniture)]
    distances = np.stack([distance for distance, _ in hits])  # (boxes, SIDE, SIDE)
    nearest = distances.argmin(axis=0)
    points = origin[:, None, None] + towards * distances.min(axis=0)  # (3, SIDE, SIDE)
    for i, (box, (_, faces)) in enumerate(zip((room, *furniture), hits, strict=True)):
        box.paint(into, nearest == i, points, faces)
    return into


# Things that move


def with_movers(frames: Iterator[Picture], textures: list[Picture], random: Random) -> Iterator[Picture]:
    """Let up to four textured shapes cross a clip."""
    movers = [_Mover(textures, random) for _ in range(int(random.integers(1, 5)))]
    for frame in frames:
        shown = frame.copy()
        for mover in movers:
            mover.draw(shown)
        yield shown


class _Mover:
    def __init__(self, textures: list[Picture], random: Random) -> None:
        side = int(np.exp(random.uniform(np.log(12), np.log(110))))
        texture = textures[int(random.integers(len(textures)))]
        crop = int(random.integers(min(texture.shape[:2]) // 3, min(texture.shape[:2]) + 1))
        top, left = (int(random.integers(0, size - crop + 1)) for size in texture.shape[:2])
        self._picture = cv2.resize(
            texture[top : top + crop, left : left + crop], (side, side), interpolation=cv2.INTER_AREA
        )
        angles = np.sort(random.uniform(0, 2 * np.pi, int(random.integers(5, 12))))
        radii = random.uniform(0.55, 1.0, len(angles)) * side / 2
        outline = np.stack((np.cos(angles) * radii * random.uniform(0.4, 1), np.sin(angles) * radii), -1) + side / 2
        mask = np.zeros((side, side), np.uint8)
        cv2.fillPoly(mask, [outline.astype(np.int32)], 255, cv2.LINE_AA)
        self._alpha = cv2.GaussianBlur(mask, (3, 3), 0)[..., None].astype(np.float32) / 255
        pace = draw_speed(random) * 10
        self._x, self._y = (Sway(random, random.uniform(0, SIDE), pace) for _ in range(2))

    def draw(self, frame: Picture) -> None:
        side = len(self._picture)
        x, y = int(self._x.step()) - side // 2, int(self._y.step()) - side // 2
        left, top, right, bottom = max(0, x), max(0, y), min(SIDE, x + side), min(SIDE, y + side)
        if left >= right or top >= bottom:
            return
        rows, columns = slice(top - y, bottom - y), slice(left - x, right - x)
        alpha, under = self._alpha[rows, columns], frame[top:bottom, left:right]
        frame[top:bottom, left:right] = alpha * self._picture[rows, columns] + (1 - alpha) * under
