"""Requirements at one end of what setup.py allows, for pip: `python .ci/versions.py oldest`, or `newest`.

torch is the one of requirements-dev.txt at both ends: a second one would be a second download of gigabytes.
"""

import sys
from pathlib import Path

from setuptools import distutils

EXTRAS = ("export", "openvino", "test")  # not openvino-export: nncf holds numpy back
ROOT = Path(__file__).resolve().parent.parent


def requirements(end: str) -> list[str]:
    """List what setup.py requires, with those extras, at one end; what has no bound is left to its dependents."""
    package = distutils.core.run_setup(str(ROOT / "setup.py"), stop_after="init")
    required = {*package.install_requires, *(name for extra in EXTRAS for name in package.extras_require[extra])}
    others = sorted(line for line in required if not line.startswith("torch>"))
    pinned = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()
    torch = next(line.partition("#")[0].strip() for line in pinned if line.startswith("torch=="))
    return [torch, *(line.replace(">=", "==", 1) if end == "oldest" else line for line in others)]


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1])))
