"""The package's shape: who may import whom, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import saccade_ros

PACKAGE = Path(saccade_ros.__file__).parent
ROS = {"rclpy", "sensor_msgs", "std_msgs", "std_srvs", "diagnostic_msgs", "builtin_interfaces", "rcl_interfaces"}
ROS |= {"lifecycle_msgs", "cv_bridge", "ament_index_python", "launch", "launch_ros", "saccade_ros.msg"}
ROS |= {"action_msgs", "saccade_ros.action"}

# What each room may import of the package; a room is a module or a folder. Data flows down this list: nothing imports
# what stands below it, and rooms that do not name each other are siblings.
MAY_IMPORT: dict[str, set[str]] = {
    "knobs": set(),
    "runtimes": set(),
    "default_model": set(),
    "plan_config": {"knobs"},
    "config": {"knobs", "runtimes", "default_model", "plan_config"},
    "params_file": {"config", "knobs"},
    "faults": {"knobs"},
    "storage": {"faults"},
    "terminal": set(),
    "frames": set(),
    "measure": {"storage"},
    "heads": {"config", "frames", "storage"},
    "vision": {"config", "frames"},
    "verdict": {"vision"},
    "plan": {"config", "frames", "measure"},
    "encoder": {"config", "frames", "storage"},
    "backends": {"config", "frames", "heads", "measure", "encoder", "storage"},
    "stepping": {"frames", "backends"},
    "intake": {"config", "faults", "frames", "vision"},
    "encoding": {"config", "faults", "frames", "heads", "plan", "backends", "stepping"},
    "pipeline": {"config", "faults", "frames", "heads", "vision", "plan", "backends", "stepping", "intake", "encoding"},
    "recordings": {"config", "frames", "measure", "storage", "vision", "intake", "pipeline", "verdict"},
    "export": {"config", "frames", "measure", "storage", "encoder", "backends", "recordings"},
    "train": {"config", "frames", "measure", "storage", "vision", "encoder", "recordings"},
}
for rooms in MAY_IMPORT.values():
    rooms |= {"knobs", "runtimes", "default_model"} if "config" in rooms else set()
MAY_IMPORT["studies"] = set(MAY_IMPORT)
MAY_IMPORT["replay"] = {
    "config",
    "knobs",
    "default_model",
    "frames",
    "measure",
    "storage",
    "vision",
    "pipeline",
    "recordings",
    "verdict",
}
MAY_IMPORT["doctor"] = {"config", "knobs", "runtimes", "default_model", "measure", "encoder", "backends"}
MAY_IMPORT["studies"] |= {"doctor"}  # which runtimes work here is asked in one place
MAY_IMPORT["cli_options"] = {"config", "knobs", "params_file"}
MAY_IMPORT["nodes"] = set(MAY_IMPORT) - {"train", "studies", "doctor"}
MAY_IMPORT["cli"] = {"cli_options", "measure", "storage", "terminal"}  # commands are imported by name


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def imports_of(file: Path) -> set[str]:
    """Full names of all modules a file imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down_only(file):
    room = room_of(file)
    inside = {name.split(".")[1] for name in imports_of(file) if name.startswith("saccade_ros.")}
    inside &= set(MAY_IMPORT)
    assert inside <= MAY_IMPORT[room] | {room}


TORCH_ALONE = {"torch_backend"}  # of the backends; what else is there runs an export


def exported_backends() -> list[str]:
    return sorted({f.stem for f in (PACKAGE / "backends").glob("*.py")} - TORCH_ALONE - {"__init__"})


@pytest.mark.parametrize("name", exported_backends())
def test_what_runs_an_export_imports_no_torch_anywhere(name):
    """`pip install saccade_ros[onnx]` has none; only the exporter, which is elsewhere, may need it."""
    imports = imports_of(PACKAGE / "backends" / f"{name}.py")
    assert not {module.split(".")[0] for module in imports} & {"torch", "transformers", "onnx", "safetensors"}
    of_encoder = {module.split(".")[2] for module in imports if module.startswith("saccade_ros.encoder.")}
    assert of_encoder <= {"spec", "positions", "areas"}


def packages_after_importing(*names):
    code = f"import sys, {', '.join(names)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return set(done.stdout.split())


def test_sizes_and_positions_of_a_step_are_had_without_torch():
    """Whatever runs an export reads the encoder's own definition of them."""
    names = [f"saccade_ros.backends.{name}" for name in exported_backends()]
    names += [f"saccade_ros.encoder.{name}" for name in ("spec", "positions", "areas")]
    assert not {"torch", "transformers", "onnx", "safetensors"} & packages_after_importing(*names)


@pytest.mark.parametrize("file", [f for f in modules() if room_of(f) != "nodes"], ids=lambda p: p.name)
def test_only_the_nodes_import_ros(file):
    roots = {name.split(".")[0] for name in imports_of(file)} | imports_of(file)
    assert not roots & ROS


def test_package_imports_in_a_blink_and_without_heavy_modules():
    assert not {"torch", "numpy", "cv2", "rclpy", "transformers", "onnxruntime"} & packages_after_importing(
        "saccade_ros"
    )


def test_pipeline_module_imports_no_torch():
    """A robot with another runtime needs none; load_backend imports it when asked."""
    assert "torch" not in packages_after_importing("saccade_ros.pipeline")
