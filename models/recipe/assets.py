"""Pictures that clips are rendered from, read out of packages as the registries ship them.

| package | what is used of it | licence |
|---|---|---|
| npm @pmndrs/assets 1.7.0 | 18 panoramas, 284 matcaps | CC0-1.0 |
| vizdoom 1.3.2 | Freedoom, phases 1 and 2 | BSD-3-Clause (Freedoom), MIT (ViZDoom) |
| miniworld 2.1.0 | 45 textures of walls and floors | Apache-2.0 |
| scikit-image 0.26.0 | the photographs named in PHOTOGRAPHS | CC0 or public domain |
| mvtb-data 1.6.1 | 20 photographs of a campus | MIT |

No panorama, map or photograph that is judged on is trained on: HELD_OUT_PANORAMAS, doom.HELD_OUT_MAPS.
"""

import base64
import re
import zipfile
from pathlib import Path

import cv2
import numpy as np
import OpenEXR
from scenes import Panorama, Picture

HELD_OUT_PANORAMAS = ("apartment", "forest", "hall", "venice", "warehouse")
PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "camera",
    "chelsea",
    "coffee",
    "grass",
    "gravel",
    "hubble_deep_field",
    "moon",
    "rocket",
)


def wheel(folder: Path, name: str) -> zipfile.ZipFile:
    """Open the wheel of a package.

    Raises:
        FileNotFoundError: it is not in the folder.
    """
    found = sorted(folder.glob(f"{name}-*.whl"))
    if not found:
        raise FileNotFoundError(f"{folder} has no wheel of {name}: `make default-model` downloads it")
    return zipfile.ZipFile(found[0])


def panoramas(folder: Path, held_out: bool) -> dict[str, Panorama]:
    """Read the panoramas to train on, or those to judge on: linear radiance (256, 512, 3) by name."""
    found = {}
    for file in sorted((folder / "package" / "hdri").glob("*.exr.js")):
        name = file.name.partition(".")[0]
        if (name in HELD_OUT_PANORAMAS) == held_out:
            found[name] = _read_exr(_payload(file), folder / f"{name}.exr")
    return found


def textures(folder: Path) -> list[Picture]:
    """Read what surfaces are covered with, squares of 256 pixels: textures, matcaps and parts of photographs."""
    with wheel(folder, "miniworld") as opened:
        names = [n for n in opened.namelist() if re.fullmatch(r"miniworld/textures/\w+\.png", n)]
        found = [_decode(opened.read(name)) for name in names]
    found += [_decode(_payload(file)) for file in sorted((folder / "package" / "matcaps").glob("*.webp.js"))[::4]]
    for photograph in photographs(folder):
        side = min(photograph.shape[:2]) // 2
        found += [photograph[:side, :side], photograph[-side:, -side:]]
    return [cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA) for picture in found]


def photographs(folder: Path) -> list[Picture]:
    """Read the photographs, at most 1024 pixels wide."""
    with wheel(folder, "scikit_image") as opened:
        by_stem = {Path(name).stem: name for name in opened.namelist() if name.startswith("skimage/data/")}
        found = [_decode(opened.read(by_stem[stem])) for stem in PHOTOGRAPHS]
    with wheel(folder, "mvtb_data") as opened:
        names = sorted(name for name in opened.namelist() if re.fullmatch(r"mvtbdata/images/campus/\w+\.png", name))
        found += [_decode(opened.read(name)) for name in names]
    return [_shrink(picture) for picture in found]


def _payload(file: Path) -> bytes:
    """Bytes that a JavaScript module carries as a data URL."""
    found = re.search(r"base64,([A-Za-z0-9+/=]+)", file.read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{file} holds no base64 data: install @pmndrs/assets 1.7.0 again")
    return base64.b64decode(found[1])


def _read_exr(data: bytes, file: Path) -> Panorama:
    file.write_bytes(data)  # OpenEXR reads files only
    pixels: Panorama = OpenEXR.File(str(file)).channels()["RGB"].pixels.astype(np.float32)
    return pixels


def _decode(data: bytes) -> Picture:
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if decoded is None:
        raise ValueError("a picture of the packages cannot be decoded: download them again")
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _shrink(picture: Picture) -> Picture:
    scale = min(1.0, 1024 / picture.shape[1])
    return np.asarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), dtype=np.uint8)
