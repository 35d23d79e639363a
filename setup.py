"""The ROS-free core with pip alone: `pip install .`. ROS builds the package with colcon, through CMakeLists.txt."""

import platform
import re
from pathlib import Path

from setuptools import Extension, find_packages, setup

HERE = Path(__file__).resolve().parent
DEFAULT_MODEL = "saccade_ros.models.default"  # installed where saccade_ros/default_model.py looks for it


def version() -> str:
    """Read without importing, so that a build needs none of the dependencies."""
    source = (HERE / "saccade_ros" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if found is None:
        raise RuntimeError('saccade_ros/__init__.py has no line __version__ = "..."')
    return found[1]


def long_description() -> str:
    readme = HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


def kernels() -> list[Extension]:
    """The C++ kernels, where they can run: no Python module, ctypes loads them. Without a compiler torch's serve."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return []
    native = "saccade_ros/encoder/native"
    options = ["-std=c++17", "-O3", "-fopenmp"]
    sources = [f"{native}/{name}.cpp" for name in ("attention", "linear", "norm")]
    name = f"{native.replace('/', '.')}.libsaccade_native"
    headers = [f"{native}/x86.h"]
    linked = ["-fopenmp"]
    return [
        Extension(name, sources, depends=headers, extra_compile_args=options, extra_link_args=linked, optional=True)
    ]


setup(
    name="saccade_ros",
    version=version(),
    description="Streaming V-JEPA 2 video embeddings whose compute follows the scene, not the clock",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    author="saccade_ros developers",
    author_email="maintainers@saccade-ros.example",
    license="Apache-2.0",
    packages=[*find_packages(include=["saccade_ros", "saccade_ros.*"]), DEFAULT_MODEL],
    package_dir={DEFAULT_MODEL: "models/default"},
    ext_modules=kernels(),
    package_data={"": ["*.html"], "saccade_ros": ["py.typed"], DEFAULT_MODEL: ["*"]},
    entry_points={"console_scripts": ["saccade = saccade_ros.cli:main"]},
    python_requires=">=3.10",
    # `make test-versions` runs at the oldest of these as well as at the newest: name releases that exist.
    install_requires=[
        "PyYAML>=6.0.1",
        "av>=14.2",
        'backports.zstd; python_version < "3.14"',  # as rosbags needs them, which sets their versions
        "huggingface_hub>=1.3",
        "lz4",
        "matplotlib>=3.7",
        "numpy>=1.26",
        "opencv-python-headless>=4.8.0.76",
        "rich>=13.0",
        "rosbags>=0.11.7",
        "rosbags-image>=0.10.4",
        "safetensors>=0.4.3",
        "simplejpeg>=1.7.3",  # optional at run time: OpenCV decodes where there is no wheel of it
    ],
    extras_require={
        "torch": ["torch>=2.6"],
        "onnx": ["onnx>=1.19", "onnxruntime>=1.24.1"],
        "export": ["onnx>=1.19", "onnx-ir>=0.1", "onnxruntime>=1.24.1", "torch>=2.6"],
        "openvino": ["onnx>=1.19", "openvino>=2025.4.1"],
        "openvino-export": ["nncf>=3.4", "onnx>=1.19", "onnxruntime>=1.24.1", "openvino>=2025.4.1", "torch>=2.6"],
        "tensorrt": ["cuda-bindings>=12.6", "tensorrt>=10.3"],
        "train": ["onnxruntime>=1.24.1", "torch>=2.6", "transformers>=5.0"],
        "test": [
            "hypothesis>=6.100",
            "jsonschema>=4.18",
            "pytest>=8.0",
            "pytest-timeout>=2.3.1",
            "torch>=2.6",
            "transformers>=5.0",
        ],
    },
    zip_safe=False,
)
