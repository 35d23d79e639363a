"""Probes of `saccade doctor`: one function for each line of its screen. They work whatever is missing or broken.

Whatever could crash an interpreter (a cv_bridge built for another numpy, a CUDA library without its driver) is
imported in a process of its own.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path

from saccade_ros import default_model
from saccade_ros.doctor.findings import Finding, Findings
from saccade_ros.runtimes import RUNTIMES

TIMEOUT_S = 60.0

# remedies
_TORCH = "pip install saccade_ros[torch]; on a Jetson NVIDIA's torch"
_BUILD = "build the package where GCC 11 or later is installed (colcon build, or pip install .)"
_TENSORRT = "JetPack brings it; elsewhere pip install saccade_ros[tensorrt]"


def examine() -> Findings:
    """Run every probe; takes seconds, as runtimes are really imported."""
    found = {probe.__name__: _guarded(probe) for probe in _PROBES}
    lines = (*found.values(), *_models())
    images = all(found[name].state == "ok" for name in ("numpy", "opencv"))
    runtimes = any(found[name].state == "ok" for name in RUNTIMES)
    return Findings(lines, images and runtimes)


def examine_runtime(name: str) -> Finding:
    """Run the probe of one runtime of runtimes.RUNTIMES."""
    return _guarded(next(probe for probe in _PROBES if probe.__name__ == name))


def _guarded(probe: Callable[[], Finding]) -> Finding:
    """Finding of a probe; one that fails is reported as broken, and the others still run."""
    try:
        return probe()
    except Exception as failed:  # noqa: BLE001  # whatever is wrong with the machine is a line of the screen
        return Finding(probe.__name__, "broken", f"{type(failed).__name__}: {failed}")


def _ask(code: str) -> str:
    """Last line that a fresh interpreter prints. Raises RuntimeError with the reason if it fails or crashes."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode < 0:
        raise RuntimeError(f"crashed its interpreter with signal {-done.returncode}")
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no reason given"])[-1][:160])
    return (done.stdout.strip().splitlines() or [""])[-1]


def _module(name: str, module: str, code: str, remedy: str) -> Finding:
    """Finding of a Python package: missing, broken, or what `code` prints of it."""
    if util.find_spec(module.partition(".")[0]) is None:
        return Finding(name, "missing", f"{module} is not installed", remedy)
    try:
        return Finding(name, "ok", _ask(code))
    except (RuntimeError, subprocess.TimeoutExpired) as failed:
        return Finding(name, "broken", f"{module} does not import: {failed}", remedy)


def python() -> Finding:
    """Python's version and path."""
    version = platform.python_version()
    old = sys.version_info < (3, 10)
    detail = f"{version}, {sys.executable}"
    return Finding("python", "broken" if old else "ok", detail, "install Python 3.10 or later" if old else "")


def processor() -> Finding:
    """Model, usable cores and instruction sets of the processor."""
    from saccade_ros.measure.machine import INSTRUCTION_SETS, describe_machine, instruction_sets

    has = ", ".join(instruction_sets()) or f"none of {', '.join(INSTRUCTION_SETS)}"
    usable = len(os.sched_getaffinity(0))
    return Finding("processor", "ok", f"{describe_machine().partition(', Linux')[0]}, {usable} usable; {has}")


def kernels() -> Finding:
    """Kernels that torch's encoder uses on the CPU."""
    code = "import json; from saccade_ros.encoder.kernels import describe; print(json.dumps(describe()))"
    asked = _module("kernels", "torch", code, _TORCH)
    if asked.state != "ok":
        return asked
    best, text = json.loads(asked.detail)
    return Finding("kernels", "ok", text) if best else Finding("kernels", "missing", text, _BUILD)


def gpu() -> Finding:
    """NVIDIA GPUs and their driver."""
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        asked = subprocess.run(query, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except FileNotFoundError:
        if Path("/etc/nv_tegra_release").exists():
            return Finding("gpu", "ok", "NVIDIA Jetson")
        return Finding("gpu", "missing", "no NVIDIA driver (nvidia-smi) here; the CPU is used")
    if asked.returncode:
        return Finding("gpu", "broken", asked.stdout.strip() or asked.stderr.strip(), "repair the NVIDIA driver")
    return Finding("gpu", "ok", asked.stdout.strip().replace("\n", "; "))


def ros() -> Finding:
    """ROS distribution, after rclpy and the messages of saccade_ros were imported."""
    distribution = os.environ.get("ROS_DISTRO")
    remedy = "source /opt/ros/jazzy/setup.bash and the workspace; not needed for `saccade replay`"
    if util.find_spec("rclpy") is None:
        return Finding("ros", "missing", "rclpy is not on Python's path", remedy)
    ours = "from saccade_ros.msg import Embedding" if _has("rosidl_parser") or distribution else "pass"
    try:
        _ask(f"import rclpy; {ours}")
    except (RuntimeError, subprocess.TimeoutExpired) as failed:
        return Finding("ros", "broken", f"{distribution or 'rclpy'}: {failed}", "build the workspace and source it")
    return Finding("ros", "ok", f"{distribution or 'unknown distribution'}; messages of saccade_ros import")


def rmw() -> Finding:
    """ROS middleware and domain."""
    if util.find_spec("rclpy") is None:
        return Finding("rmw", "missing", "no ROS")
    name = _ask("import rclpy.utilities as u; print(u.get_rmw_implementation_identifier())")
    return Finding("rmw", "ok", f"{name}, domain {os.environ.get('ROS_DOMAIN_ID', '0')}")


def numpy() -> Finding:
    """NumPy's version, after a computation."""
    code = "import numpy as n; n.linalg.norm(n.ones(3)); print(n.__version__)"
    return _module("numpy", "numpy", code, "pip install numpy")


def opencv() -> Finding:
    """OpenCV's version, after an image was resized."""
    code = "import cv2, numpy; cv2.resize(numpy.zeros((4, 4, 3), 'uint8'), (2, 2)); print(cv2.__version__)"
    return _module("opencv", "cv2", code, "apt install python3-opencv, or pip install opencv-python-headless")


def simplejpeg() -> Finding:
    """simplejpeg's version, after a picture was coded and decoded."""
    code = (
        "import numpy, simplejpeg as s; s.decode_jpeg(s.encode_jpeg(numpy.zeros((8, 8, 3), 'uint8')));"
        " print(s.__version__)"
    )
    remedy = "pip install simplejpeg; without it OpenCV decodes JPEGs, and more damaged ones pass"
    return _module("simplejpeg", "simplejpeg", code, remedy)


def cv_bridge() -> Finding:
    """cv_bridge, after an image was converted to a message and back."""
    code = (
        "import numpy; from cv_bridge import CvBridge as B; z = numpy.zeros((2, 2, 3), 'uint8');"
        " B().imgmsg_to_cv2(B().cv2_to_imgmsg(z, 'rgb8'), 'rgb8'); print('converts images')"
    )
    return _module("cv_bridge", "cv_bridge", code, "none needed: rosbags-image does the same")


def torch() -> Finding:
    """torch's version, device and number of threads."""
    code = (
        "import torch as t; print(t.__version__, 'CUDA: ' + t.cuda.get_device_name() if t.cuda.is_available()"
        " else 'CPU only', f'{t.get_num_threads()} threads', sep=', ')"
    )
    return _module("torch", "torch", code, _TORCH)


def onnxruntime() -> Finding:
    """ONNX Runtime's version and execution providers."""
    code = "import onnxruntime as o; print(o.__version__, ', '.join(o.get_available_providers()), sep=': ')"
    return _module("onnxruntime", "onnxruntime", code, "pip install saccade_ros[onnx], or onnxruntime-gpu")


def openvino() -> Finding:
    """OpenVINO's version, devices, and what it computes on the CPU."""
    code = (
        "import openvino as o; c = o.Core(); print(o.__version__.partition('-')[0], ', '.join(c.available_devices)"
        " + ' (CPU: ' + ', '.join(c.get_property('CPU', 'OPTIMIZATION_CAPABILITIES')) + ')', sep=': ')"
    )
    return _module("openvino", "openvino", code, "pip install saccade_ros[openvino]")


def tensorrt() -> Finding:
    """TensorRT's version and the GPU. Without a GPU it counts as missing: it builds engines but runs none."""
    code = (
        "from saccade_ros.backends import cuda_runtime as c, tensorrt_engine as e;"
        " print(e.describe_tensorrt(e.load_tensorrt()), c.describe_gpu(), sep='; GPU: ')"
    )
    try:
        detail = _ask(code)
    except (RuntimeError, subprocess.TimeoutExpired) as failed:
        reason = str(failed).partition("BackendError: ")[2] or str(failed)
        return Finding("tensorrt", "missing", "no TensorRT here" if "not installed" in reason else reason, _TENSORRT)
    if detail.endswith("none"):
        return Finding("tensorrt", "missing", f"{detail}: builds engines, runs none", "needs a GPU, and cuda-bindings")
    return Finding("tensorrt", "ok", detail)


def exporting() -> Finding:
    """Packages that `saccade export` needs."""
    lacking = [name for name in ("torch", "onnx", "onnx_ir", "onnxruntime") if not _has(name)]
    if lacking:
        return Finding("export", "missing", f"lacks {', '.join(lacking)}", "pip install saccade_ros[export]")
    return Finding("export", "ok", f"saccade export can write ONNX (onnx {metadata.version('onnx')})")


def _has(module: str) -> bool:
    return util.find_spec(module) is not None


def _models() -> list[Finding]:
    """Findings of the default model, and of the checkpoints and exports in ./models and in the hub's cache."""
    default = Path(default_model.locate(default_model.NAME))
    hub = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")) / "hub"
    configs = [*Path("models").glob("*/config.json"), *hub.glob("models--*vjepa*/snapshots/*/config.json")]
    exports = list(Path("models").glob("*/manifest.json"))
    there = (default / "model.safetensors").is_file()
    detail = f"default: {default}; {_explain_auto(default_model.NAME)}"
    lines = [Finding("model", "ok" if there else "broken", detail, "" if there else "install it again")]
    found = (path.parent for path in sorted(configs) if path.parent.resolve() != default.resolve())
    lines += [Finding("model", "ok", f"checkpoint {folder}: {_explain_auto(str(folder))}") for folder in found]
    return lines + [_export(path) for path in sorted(exports)]


def _export(file: Path) -> Finding:
    """Finding of an exported folder, by its manifest."""
    from saccade_ros.backends.manifest import ManifestError, read_manifest

    try:
        manifest = read_manifest(str(file))
    except ManifestError as broken:
        return Finding("model", "broken", str(broken))
    kept = ", ".join(f"{a.runtime} {a.precision}" for a in manifest.artifacts)
    detail = f"export {file.parent}: {kept}; window {manifest.shape['window']}"
    try:
        return Finding("model", "ok", f"{detail}; {_explain_auto(str(file))}")
    except ManifestError as useless:
        return Finding("model", "broken", f"{detail}; {useless}")


def _explain_auto(model: str) -> str:
    """Meaning of the settings' `auto` for a model here, and the reason."""
    try:
        from saccade_ros.backends.choice import choose
        from saccade_ros.config import BackendConfig, EncoderConfig
    except ImportError as missing:
        return f"what auto means is not known without {missing.name}"
    return f"auto is {choose(EncoderConfig(model=model), BackendConfig()).why}"


_PROBES = (
    python, processor, kernels, gpu, ros, rmw, numpy, opencv, simplejpeg, cv_bridge, torch, onnxruntime, openvino,
    tensorrt,
    exporting,
)  # fmt: skip
