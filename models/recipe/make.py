"""Make the default model from the registries' packages: `make default-model`, hours on two cores.

    python make.py FOLDER        goes on from whatever FOLDER holds of an earlier, interrupted run

FOLDER/packages holds what was downloaded; clips/, judge/, cache/ and student/ are made here, and in the end models/default.
"""

import subprocess
import sys
from pathlib import Path

import torch

from saccade_ros.encoder.weights import load_encoder, save_transformers

HERE = Path(__file__).parent
DEFAULT = HERE.parent / "default"
CLIPS = 3000
STUDENT = {"--steps": "4000", "--batch": "24", "--learning-rate": "1e-3", "--hidden": "0.5", "--clip-tubelets": "4"}
EVERY_FRAME = ("--set", "stream.fps=0")


def main() -> None:
    """Run every step that is not done yet."""
    folder = Path(sys.argv[1])
    packages, teacher = folder / "packages", folder / "efficientnet_lite0.onnx"
    if not teacher.exists():
        run(HERE / "teacher.py", packages, folder)
    run(HERE / "render.py", packages, folder / "clips", "--clips", CLIPS)
    if not (folder / "judge" / "motion").exists():
        run(HERE / "judge.py", packages, folder / "judge")
    saccade("train", "cache", folder / "clips", "--teacher", teacher, "--out", folder / "cache", *EVERY_FRAME)
    student = folder / "student"
    going_on = ["--resume"] if (student / "checkpoint.pt").exists() else []
    options = [word for pair in STUDENT.items() for word in pair]
    saccade("train", "student", folder / "cache", "--out", student, *options, *going_on)
    ship(student)


def run(*command: object) -> None:
    """Run one of this folder's scripts; stop if it fails."""
    subprocess.run([sys.executable, *map(str, command)], check=True)


def saccade(*command: object) -> None:
    """Run a command of the package; stop if it fails."""
    run("-m", "saccade_ros.cli", *command)


def ship(student: Path) -> None:
    """Write the student in float16 as the default model; the card beside it stays as it is."""
    trained = load_encoder(str(student), 1).encoder
    save_transformers(trained.spec, trained.state_dict(), DEFAULT, torch.float16)
    print(DEFAULT)


if __name__ == "__main__":
    main()
