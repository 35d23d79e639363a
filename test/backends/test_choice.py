"""What `auto` means: by what is installed, the processor, and the fidelity that was measured; never by timing."""

from dataclasses import replace

import pytest

from saccade_ros.backends import BackendError, choice, load_backend
from saccade_ros.backends.choice import choose
from saccade_ros.backends.manifest import Artifact, Manifest, ManifestError, ModelInfo
from saccade_ros.backends.window import StepShape
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.encoder.spec import ModelSpec

SPEC = ModelSpec("tiny", width=192, depth=4, heads=3, input_size=128)
WITH_ALL = ("AVX2", "AVX-512", "VNNI int8", "bf16")


def artifact(name, cosine=0.999):
    """One that was measured, unless `cosine` is None."""
    runtime, precision = name.split()
    parity = {} if cosine is None else {"held_out": {"centred_cosine_mean": cosine}}
    return Artifact(runtime, precision, "host", {"step": "step"}, parity)


@pytest.fixture
def export(tmp_path, monkeypatch):
    """Write an export of artifacts, timed on the processor "Workstation", and read it on "Robot"."""
    monkeypatch.setattr(choice, "processor", lambda: "Robot")
    monkeypatch.setattr(choice, "instruction_sets", lambda: WITH_ALL)
    monkeypatch.setattr(choice, "_is_installed", lambda package: True)

    def of(*artifacts, machine="Workstation"):
        model = ModelInfo("RANDOM tiny, seed 0", "0" * 64, True, 1.0)
        files = {"step": {"bytes": 1, "sha256": "0" * 64}}
        shape = StepShape(SPEC, 3).sizes
        head = tmp_path, "0", "now", f"{machine}, 2 cores, Linux", model, SPEC, shape
        Manifest(*head, artifacts=artifacts, refused=(), files=files, versions={}).save()
        return EncoderConfig(model=str(tmp_path), window=3)

    return of


def chosen(encoder, **backend):
    found = choose(encoder, BackendConfig(**backend))
    return f"{found.runtime} {found.precision}"


def test_on_the_same_processor_the_exports_own_timing_decides(export):
    encoder = export(artifact("onnxruntime fp32"), artifact("openvino int8"), machine="Robot")
    assert chosen(encoder) == "onnxruntime fp32"
    assert "own timing" in choose(encoder, BackendConfig()).why


def test_on_another_processor_its_instruction_sets_decide(export, monkeypatch):
    encoder = export(artifact("onnxruntime fp32"), artifact("openvino bf16"), artifact("openvino int8"))
    assert chosen(encoder) == "openvino int8"
    assert "VNNI int8" in choose(encoder, BackendConfig()).why
    monkeypatch.setattr(choice, "instruction_sets", lambda: ("AVX2",))
    assert chosen(encoder) == "onnxruntime fp32"
    monkeypatch.setattr(choice, "instruction_sets", lambda: ("Arm dot product int8",))
    assert chosen(encoder) == "openvino int8"


def test_what_lost_more_than_the_fidelity_asked_for_is_not_chosen(export):
    """Kept by force, say. By its name it can be had."""
    encoder = export(
        artifact("openvino int8-static", 0.95), artifact("openvino int8", 0.992), artifact("openvino fp32")
    )
    assert chosen(encoder) == "openvino int8"
    assert chosen(encoder, fidelity=0.999) == "openvino fp32"
    assert chosen(encoder, fidelity=0.9) == "openvino int8-static"
    assert chosen(encoder, precision="int8-static") == "openvino int8-static"
    with pytest.raises(ManifestError, match=r"openvino int8-static: its centred cosine of 0\.9500 is below"):
        choose(export(artifact("openvino int8-static", 0.95)), BackendConfig())


def test_what_is_not_installed_is_not_chosen(export, monkeypatch):
    encoder = export(
        artifact("openvino int8"), artifact("onnxruntime int8"), artifact("tensorrt fp16"), machine="Robot"
    )
    monkeypatch.setattr(choice, "_is_installed", lambda package: package != "openvino")
    assert chosen(encoder) == "onnxruntime int8"
    with pytest.raises(ManifestError, match=r"tensorrt fp16: needs an NVIDIA GPU"):
        choose(export(artifact("tensorrt fp16")), BackendConfig())


@pytest.mark.parametrize("name", ["auto", "openvino"])
def test_half_precision_needs_a_processor_that_has_it(export, monkeypatch, name):
    encoder = export(artifact("openvino bf16"), artifact("openvino fp32"), machine="Robot")
    assert chosen(encoder, name=name) == "openvino bf16"
    monkeypatch.setattr(choice, "instruction_sets", lambda: ("AVX2", "Arm bf16"))
    assert chosen(encoder, name=name) == "openvino fp32"


def test_what_was_not_measured_comes_last(export):
    encoder = export(artifact("openvino int8", None), artifact("onnxruntime fp32"))
    assert chosen(encoder) == "onnxruntime fp32"
    only = export(artifact("openvino int8", None))
    assert "not measured" in choose(only, BackendConfig()).why


def test_names_that_are_given_stand(export):
    encoder = export(artifact("openvino int8", 0.5), artifact("onnxruntime fp32"))
    assert chosen(encoder, name="openvino", precision="int8") == "openvino int8"
    assert chosen(encoder, device="npu", precision="int8") == "openvino int8"
    with pytest.raises(ManifestError, match=r"does not run on backend\.device 'npu'"):
        choose(replace(encoder), BackendConfig(device="npu", precision="fp32"))


@pytest.fixture
def installed(monkeypatch):
    """Say what is installed, and on which processor, with or without an NVIDIA GPU."""

    def are(*packages, sets=("AVX2",), gpu=False):
        monkeypatch.setattr(choice, "_is_installed", lambda package: package in packages)
        monkeypatch.setattr(choice, "instruction_sets", lambda: sets)
        monkeypatch.setattr(choice, "_has_nvidia", lambda: gpu)

    return are


@pytest.mark.parametrize(
    ("packages", "sets", "found"),
    [
        (("torch", "onnx", "onnxruntime", "openvino"), ("AVX2",), "onnxruntime fp32"),
        (("torch", "onnx", "openvino"), ("AVX2",), "openvino fp32"),
        (("torch", "onnxruntime"), ("AVX2",), "torch fp32"),
        (("torch", "onnx", "onnxruntime"), ("AVX-512", "AMX bf16"), "torch fp32"),
        (("onnx", "onnxruntime"), ("AVX-512", "AMX bf16"), "onnxruntime fp32"),
        ((), ("AVX2",), "torch fp32"),
    ],
)
def test_a_checkpoint_runs_in_fp32_on_what_is_fastest_here(installed, packages, sets, found):
    installed(*packages, sets=sets)
    assert chosen(EncoderConfig()) == found
    assert chosen(EncoderConfig(), fidelity=-1.0) == found


@pytest.mark.parametrize(
    "encoder", [{"model": "tiny"}, {"model": "a.pt"}, {"adapter": "a.safetensors"}, {"pooling": "probe"}]
)
def test_what_only_torch_loads_is_torchs(installed, encoder):
    installed("torch", "onnx", "onnxruntime")
    assert chosen(EncoderConfig(**encoder)) == "torch fp32"


def test_precision_device_and_gpu_narrow_the_runtimes_of_a_checkpoint(installed):
    installed("torch", "onnx", "onnxruntime", "openvino")
    assert chosen(EncoderConfig(), precision="int8") == "torch int8"
    assert chosen(EncoderConfig(), precision="bf16") == "openvino bf16"
    assert chosen(EncoderConfig(), device="npu") == "openvino fp32"
    installed("torch", "onnx", "onnxruntime", gpu=True)
    assert chosen(EncoderConfig()) == "torch fp32"
    assert chosen(EncoderConfig(), device="cpu") == "onnxruntime fp32"


def test_choice_is_told_in_the_encoders_info():
    assert "torch fp32" in load_backend(EncoderConfig(model="tiny", window=3), BackendConfig(threads=1)).info.choice


@pytest.mark.parametrize("device", ["gpu", "npu"])
def test_device_that_a_runtime_does_not_know_is_refused_by_name(device):
    with pytest.raises(
        BackendError, match=rf"backend\.device is '{device}', but torch runs on cpu, cuda only: set one"
    ):
        load_backend(EncoderConfig(model="tiny"), BackendConfig(device=device))
