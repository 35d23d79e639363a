"""Replay on Arm's wheels, emulated, against the same replay here: `make test-arm`. For its vectors; times mean nothing.

    python .ci/arm.py CLIP FOLDER

Needs Debian or Ubuntu with qemu-user-static, and this project's environment. In FOLDER, kept from run to run: Debian's
Python for arm64, unpacked; wheels for aarch64, without torch; an export of the default model, made here.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from setuptools import distutils

ROOT = Path(__file__).resolve().parent.parent
QEMU = "qemu-aarch64-static"
TUBELETS = 10  # more than the window: the emulation takes seconds for each
DIFFERENCE = 1e-5  # of a vector of the same pixels, to the largest value of any: sums have another order on Arm
LEVELS = 8  # grey levels of 256, of a pixel: FFmpeg and OpenCV round otherwise on Arm
GREY_LEVELS = 255 * 0.229  # of a pixel's normalised unit, at most: of the channel with the largest deviation
# What Python and the wheels link to, beside Python's own packages and OpenSSL.
LIBRARIES = ("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libffi8", "libbz2-1.0", "liblzma5")
LIBRARIES += ("libsqlite3-0", "libuuid1", "libcrypt1")
ONNXRUNTIME = "onnxruntime==1.27.*"  # the wheel of 1.31 crashes at import inside qemu 7.2
PLATFORMS = [f"--platform=manylinux{tag}_aarch64" for tag in ("2014", "_2_28", "_2_27", "_2_26", "_2_17")]

# Replays a clip's first tubelets, and encodes once more the pixels of another replay, if one is given.
REPLAY = """
import sys
import numpy as np
from saccade_ros.config import BackendConfig, Config, EncoderConfig
from saccade_ros.pipeline import Pipeline
from saccade_ros.recordings import open_source
from saccade_ros.recordings.clip import frames_of
clip, model, tubelets, other, out = sys.argv[1:]
backend = BackendConfig(name="onnxruntime", precision="fp32", threads=1)
pipeline = Pipeline(Config(encoder=EncoderConfig(model=model), backend=backend))
stream, decoded = pipeline.open_stream(), []
with open_source(clip) as source:
    for frame in frames_of(source):
        if stream.offer(frame):
            decoded.append(stream.decode())
        if len(decoded) == int(tubelets):
            break
pixels = np.stack([each.pixels for each in decoded])
if other:
    own, pixels = pixels, np.load(other)["pixels"]
results = [stream.embed(each._replace(pixels=given)) for each, given in zip(decoded, pixels, strict=True)]
vectors, computed = np.stack([r.vector for r in results]), [r.tokens_computed for r in results]
np.savez(out, vectors=vectors, computed=computed, pixels=own if other else pixels)
assert "torch" not in sys.modules
"""


def main(clip: Path, folder: Path) -> int:
    """Make what is missing, replay twice, compare."""
    if shutil.which(QEMU) is None:
        print(f"test-arm: not run, {QEMU} is not here; on Debian or Ubuntu: apt install qemu-user-static")
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    python = arm_python(folder)
    site, export = arm_wheels(folder, python.name), exported(folder, clip)
    here, there = folder / "here.npz", folder / "arm.npz"
    arguments = [str(clip), str(export), str(TUBELETS)]
    subprocess.run([sys.executable, "-c", REPLAY, *arguments, "", str(here)], check=True)
    print("test-arm: replaying in the emulation; minutes", flush=True)
    root = python.parents[2]
    emulated = [QEMU, "-L", str(root), "-E", f"PYTHONHOME={root / 'usr'}", "-E", f"PYTHONPATH={ROOT}:{site}"]
    emulated += ["-E", "OMP_NUM_THREADS=1", "-E", f"LD_LIBRARY_PATH={root / 'usr/lib/aarch64-linux-gnu'}", str(python)]
    subprocess.run([*emulated, "-c", REPLAY, *arguments, str(here), str(there)], check=True)
    return compare(here, there)


def compare(here: Path, there: Path) -> int:
    """Say how far the vectors of the same pixels are apart, and the pixels; exit status 1 if that is too far."""
    ours, theirs = np.load(here), np.load(there)
    if not np.array_equal(ours["computed"], theirs["computed"]):
        print(f"test-arm: FAILED, tokens computed differ: {ours['computed']} here, {theirs['computed']} on Arm")
        return 1
    vectors = ours["vectors"]
    difference = float(np.abs(vectors - theirs["vectors"]).max() / np.abs(vectors).max())
    levels = float(np.abs(ours["pixels"] - theirs["pixels"]).max()) * GREY_LEVELS
    outcome = "ok" if difference <= DIFFERENCE and levels <= LEVELS else "FAILED"
    print(f"test-arm: {outcome}, {len(vectors)} embeddings of the same pixels, largest difference {difference:.1e} of")
    print(f"the largest value; pixels decoded and resized on Arm differ by {levels:.0f} grey levels at most")
    return 0 if outcome == "ok" else 1


def arm_python(folder: Path) -> Path:
    """Debian's Python for arm64, unpacked with its libraries, from where apt has this machine's own packages."""
    root, packages = folder / "root", folder / "packages"
    if not list(root.glob("usr/bin/python3.*")):
        print("test-arm: unpacking Debian's Python for arm64")
        options = apt_options(packages)
        subprocess.run(["apt-get", *options, "update", "-qq"], check=True)
        known = subprocess.run(["apt-cache", *options, "pkgnames"], capture_output=True, text=True, check=True).stdout
        (version,) = re.findall(r"^python(3\.\d+)-minimal$", known, re.MULTILINE)
        (openssl,) = re.findall(r"^libssl3(?:t64)?$", known, re.MULTILINE)  # Ubuntu 24.04 and Debian 13 have the second
        of_python = [f"python{version}-minimal", f"libpython{version}-minimal", f"libpython{version}-stdlib"]
        subprocess.run(["apt-get", *options, "download", *of_python, openssl, *LIBRARIES], cwd=packages, check=True)
        for package in packages.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(root)], check=True)
    return next(root.glob("usr/bin/python3.*"))


def apt_options(packages: Path) -> list[str]:
    """Options by which apt works for arm64 in a folder of its own, needs no root and leaves this machine's as it is."""
    state = packages / "state"
    for made in (state / "lists" / "partial", packages / "archives" / "partial"):
        made.mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    settings = {"APT::Architecture": "arm64", "APT::Architectures": "arm64", "Debug::NoLocking": "true"}
    settings |= {"Dir::State": str(state), "Dir::State::status": str(state / "status"), "Dir::Cache": str(packages)}
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def arm_wheels(folder: Path, python: str) -> Path:
    """Folder of the wheels' content: what a replay imports, without torch."""
    site = folder / "site"
    if not site.exists():
        print("test-arm: fetching wheels for aarch64")
        wheels = folder / "wheels"
        asked = ["--only-binary=:all:", "--implementation=cp", f"--python-version={python.removeprefix('python')}"]
        command = [sys.executable, "-m", "pip", "download", "--quiet", *asked, *PLATFORMS, f"--dest={wheels}"]
        package = distutils.core.run_setup(str(ROOT / "setup.py"), stop_after="init")
        subprocess.run([*command, *package.install_requires, ONNXRUNTIME], check=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            for wheel in wheels.glob("*.whl"):
                zipfile.ZipFile(wheel).extractall(scratch)
            shutil.copytree(scratch, site)
    return site


def exported(folder: Path, clip: Path) -> Path:
    """The default model as an export in fp32, made here."""
    export = folder / "default"
    if not export.exists():
        words = ["--model", "default", "--calibration", str(clip), "--precisions", "fp32", "--tubelets", "16"]
        command = [sys.executable, "-m", "saccade_ros.cli", "export", *words, "--out", str(export), "--force"]
        subprocess.run(command, check=True)
    return export


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()))
