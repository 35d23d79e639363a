"""An export from start to end on a clip: what it measures, accepts, refuses, and leaves behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import released_model
import torch
from reference_model import random_clip
from safetensors.torch import load_file, save_file
from scenes import frames_of, textured, tiny_config

from saccade_ros import default_model
from saccade_ros.backends import BackendError, load_backend, onnx_backend
from saccade_ros.backends.manifest import ManifestError, read_manifest
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.encoder.spec import ModelSpec
from saccade_ros.encoder.weights import load_untrained, save_transformers
from saccade_ros.export.exporter import ExportCancelledError, export
from saccade_ros.export.graph import ExportError
from saccade_ros.export.options import ExportOptions
from saccade_ros.measure.progress import silent
from saccade_ros.pipeline import Pipeline
from saccade_ros.storage import StorageError


def test_fp32_is_torch_over_the_whole_clip(manifest):
    parity = manifest.pick("onnxruntime", "fp32").parity
    assert parity["held_out"]["tubelets"] >= 2 * manifest.shape["window"]
    for clip in ("calibration", "held_out"):
        assert parity[clip]["max_relative_error"] <= 1e-4
        assert parity[clip]["centred_cosine_worst"] >= 0.9999


def test_int8_keeps_the_embeddings_and_is_a_quarter_of_the_size(manifest):
    for precision in ("int8", "int8-static"):
        artifact = manifest.pick("onnxruntime", precision)
        assert artifact.parity["held_out"]["centred_cosine_mean"] >= 0.99
        assert 0 < artifact.parity["held_out"]["max_relative_error"] < 0.1
        assert artifact.parity["bytes"] < 0.3 * artifact.parity["bytes_fp32"]
    assert manifest.pick("onnxruntime", "int4").parity["bytes"] < 0.2 * artifact.parity["bytes_fp32"]


def test_default_model_exports_as_any_checkpoint(options):
    """int8 passes the floor of fidelity. Forced: whether it is faster as well is up to the machine and its load."""
    asked = options(model="default", precisions=("fp32", "int8"), force=True)
    kept = export(asked, silent)
    assert {artifact.precision for artifact in kept.artifacts} == {"fp32", "int8"}, kept.refused
    assert kept.pick("onnxruntime", "int8").parity["held_out"]["centred_cosine_mean"] >= ExportOptions.fidelity_floor
    assert kept.pick("onnxruntime", "fp32").parity["held_out"]["max_relative_error"] <= 1e-4
    info = load_backend(EncoderConfig(model=str(kept.folder), window=3), BackendConfig(threads=1)).info
    assert (info.weights, info.weights_random) == (default_model.SOURCE, False)


def test_areas_are_exported_and_their_embeddings_have_torchs_id(options):
    kept = export(options(precisions=("fp32",), area_grid="3x2", area_layers=2), silent)
    assert kept.pick("onnxruntime", "fp32").parity["held_out"]["max_relative_error"] <= 1e-4
    encoder = EncoderConfig(model=str(kept.folder), window=3, area_grid="3x2", area_layers=2)
    exported, torchs = (
        load_backend(e, BackendConfig(threads=1)).info for e in (encoder, replace(encoder, model="tiny"))
    )
    assert exported.encoder_id == torchs.encoder_id
    assert exported.encoder_id.endswith(":areas-3x2-2")
    with pytest.raises(ManifestError, match=r"encoder.area_grid is 1x1, but .* was exported for 3x2: set"):
        load_backend(replace(encoder, area_grid="1x1"), BackendConfig())


def test_every_artifact_says_how_fast_it_was_and_against_what(manifest):
    for artifact in manifest.artifacts:
        assert {"torch_fp32", "step"} <= set(artifact.latency_ms)
        assert ("onnxruntime_fp32" in artifact.latency_ms) == (artifact.precision != "fp32")
    speeds = [a.latency_ms["step"] for a in manifest.artifacts]
    assert speeds == sorted(speeds), "the fastest is preferred"


@pytest.mark.parametrize("pooling", ["newest", "window"])
def test_engine_gives_the_same_by_torch_and_by_onnx(manifest, pooling):
    """Embeddings, novelty, decisions, reuse; through a time jump, so a reset, too."""
    pictures = [textured(seed=i // 5 % 4) for i in range(40)]
    frames = [*frames_of(pictures), *frames_of(pictures[::-1], start_ns=10**8)]
    encoder = EncoderConfig(model="tiny", window=3, pooling=pooling, normalize=True)
    runs = []
    for model, backend in (("tiny", "torch"), (str(manifest.folder), "onnxruntime")):
        settings = BackendConfig(name=backend, precision="fp32", device="cpu", threads=1)
        pipeline = Pipeline(tiny_config(encoder=replace(encoder, model=model), backend=settings))
        pipeline.warm_up()
        stream = pipeline.open_stream()
        runs.append([r for r in map(stream.push, frames) if r is not None])
    torch_run, onnx_run = runs
    assert {r.stream_epoch for r in onnx_run} == {0, 1}
    assert [(r.encoded, r.reuse_count, r.window_fill, r.stream_epoch) for r in onnx_run] == [
        (r.encoded, r.reuse_count, r.window_fill, r.stream_epoch) for r in torch_run
    ]
    vectors = [np.stack([r.vector for r in run]) for run in runs]
    assert np.abs(vectors[0] - vectors[1]).max() <= 1e-4 * np.abs(vectors[0]).max()
    assert np.allclose(*([r.novelty for r in run] for run in runs), rtol=1e-4, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 1e-2), ("int8", 0.1), ("int8-static", 0.1), ("int4", 0.3)]
)
def test_every_precision_computes_sparse_steps(manifest, precision, tolerance):
    encoder, settings = (
        EncoderConfig(model=str(manifest.folder), window=3),
        BackendConfig(precision=precision, threads=1),
    )
    backend, torchs = load_backend(encoder, settings), load_backend(replace(encoder, model="tiny"), BackendConfig())
    assert backend.info.token_counts == torchs.info.token_counts == ()
    state, reference = backend.new_state(), torchs.new_state()
    rng = np.random.default_rng(0)
    for n, pixels in enumerate(random_clip(11).numpy()):
        token_idx = np.sort(rng.permutation(64)[: rng.integers(1, 65)]) if n % 4 else None
        for one, of in ((state, backend), (reference, torchs)):
            one.step(of.embed(pixels).patches, token_idx)
        expected = reference.tokens.numpy()
        assert np.abs(state.tokens[-1] - expected).max() <= tolerance * np.abs(expected).max(), n


def test_export_that_recomputes_says_that_it_computes_all_tokens(options):
    kept = export(options(precisions=("fp32",), recompute=2), silent)
    encoder = EncoderConfig(model=str(kept.folder), window=3, recompute=2)
    assert load_backend(encoder, BackendConfig(threads=1)).info.token_counts == (64,)


def test_merging_is_exported_measured_and_asked_for_at_load(options):
    merged = export(options(precisions=("fp32", "int8"), merge=8), silent)
    parity = merged.pick("onnxruntime", "fp32").parity["held_out"]
    assert parity["max_relative_error"] <= 1e-4
    assert parity["centred_cosine_worst"] >= 0.9999
    wanted = EncoderConfig(model=str(merged.folder), window=3, merge=8)
    exported = load_backend(wanted, BackendConfig(precision="fp32", threads=1)).info
    here = load_backend(replace(wanted, model="tiny"), BackendConfig(device="cpu")).info
    assert (exported.encoder_id, exported.token_counts) == (here.encoder_id, here.token_counts)
    with pytest.raises(ManifestError, match=r"encoder\.merge is 0, but .* was exported for 8"):
        load_backend(replace(wanted, merge=0), BackendConfig())


def test_streams_of_one_backend_keep_apart_and_repeat_to_the_bit(manifest):
    backend = load_backend(EncoderConfig(model=str(manifest.folder), window=3), BackendConfig(threads=1))
    patches = [
        backend.embed(p).patches for p in np.random.default_rng(0).standard_normal((6, 2, 3, 128, 128), np.float32)
    ]
    alone, first, second = backend.new_state(), backend.new_state(), backend.new_state()
    expected = [alone.step(p) for p in patches]
    for p, vector in zip(patches, expected, strict=True):
        assert np.array_equal(first.step(p), vector)
        second.step(p[::-1].copy())
    first.reset()
    assert first.fill == 0
    assert np.array_equal(np.stack([first.step(p) for p in patches]), np.stack(expected))


def test_a_step_with_nan_raises_and_leaves_the_stream_as_it_was(manifest):
    """Also through a reset: 0 times a NaN that stayed in an invalid slot would be NaN."""
    backend = load_backend(EncoderConfig(model=str(manifest.folder), window=3), BackendConfig(threads=1))
    clip = np.random.default_rng(0).standard_normal((5, 2, 3, 128, 128), np.float32)
    patches = [backend.embed(p).patches for p in clip]
    state, untouched = backend.new_state(), backend.new_state()
    for i, p in enumerate(patches):
        if i in (1, 4):  # while young, and with the ring full
            with pytest.raises(ArithmeticError, match="NaN or infinite"):
                state.step(np.full_like(p, np.nan))
        assert np.array_equal(state.step(p), untouched.step(p))
    with pytest.raises(ArithmeticError):
        state.step(np.full_like(p, np.nan))
    state.reset()
    assert np.array_equal(state.step(patches[0]), backend.new_state().step(patches[0]))


def test_info_is_torchs_but_for_the_runtime(manifest):
    encoder = EncoderConfig(model=str(manifest.folder), window=3)
    info = load_backend(encoder, BackendConfig(precision="fp32", threads=1)).info
    of_torch = load_backend(EncoderConfig(model="tiny", window=3), BackendConfig(threads=1)).info
    assert info.encoder_id == of_torch.encoder_id
    assert (info.weights_sha256, info.weights_random) == (of_torch.weights_sha256, True)
    assert info.patch_scale == pytest.approx(of_torch.patch_scale)
    assert (info.backend, info.device, info.dim, info.window) == ("onnxruntime", "cpu", 192, 3)


def test_vjepa21_export_is_torch_after_the_manifest_too(options, tmp_path):
    """The manifest carries all that positions depend on: 8 patches a side are stretched over a rotary grid of 16."""
    file = str(tmp_path / "vjepa2_1_small_128.pt")
    torch.save(released_model.document(), file)
    kept = export(options(model=file, precisions=("fp32",)), silent)
    assert kept.artifacts[0].parity["held_out"]["max_relative_error"] <= 1e-4
    states = []
    for model, backend in ((file, "torch"), (str(kept.folder), "onnxruntime")):
        settings = BackendConfig(name=backend, precision="fp32", device="cpu", threads=1)
        loaded = load_backend(EncoderConfig(model=model, window=3), settings)
        states.append((loaded, loaded.new_state()))
    for pixels in random_clip(8).numpy():
        expected, vector = (state.step(loaded.embed(pixels).patches) for loaded, state in states)
        assert np.abs(vector - expected).max() <= 1e-4 * np.abs(expected).max()


def test_what_is_worse_than_asked_is_refused_with_the_figures(options):
    """int4 on random weights is below any sensible floor."""
    refusing = options(precisions=("fp32", "int4"), force=False, fidelity_floor=0.9999)
    manifest = export(refusing, silent)
    assert [a.precision for a in manifest.artifacts] == ["fp32"]
    (reason,) = manifest.refused
    assert "onnx int4: mean centred cosine 0." in reason
    assert "below the floor 0.9999" in reason
    assert not list((refusing.out / "onnx-int4").glob("*.onnx"))
    with pytest.raises(ExportError, match=r"nothing was accepted.*below the floor.*--force keeps them"):
        export(options(precisions=("int4",), force=False, fidelity_floor=0.9999), silent)


def test_force_keeps_it_with_a_warning(options):
    kept = export(options(precisions=("int4",), fidelity_floor=0.9999), silent)
    assert "below the floor 0.9999" in kept.artifacts[0].warnings[0]
    assert read_manifest(str(kept.folder)).artifacts[0].warnings == kept.artifacts[0].warnings


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"precisions": ("fp8",)}, "precisions is 'fp8': choose one of fp32, bf16"),
        ({"formats": ("coreml",)}, "formats is 'coreml': choose one of onnx, openvino, tensorrt"),
        (
            {"formats": ("tensorrt",), "precisions": ("int8", "int4")},
            "formats tensorrt have no precision of int8, int4",
        ),
        ({"batch": 0}, "batch is 0: give at least 1"),
        ({"batch": 2, "precisions": ("int8-static",)}, "batch is 2: int8-static is calibrated on a single stream"),
        ({"calibration": ""}, "calibration is empty"),
        ({"calibration": "absent.mp4"}, "absent.mp4 does not exist"),
        ({"model": "nothing"}, "is no folder"),
        ({"window": 99}, "window 99 is outside 1..32"),
        ({"tubelets": 1}, "tubelets is 1"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_written(options, changes, said):
    with pytest.raises(ValueError, match=said):
        export(options(**changes), silent)


def swollen(folder, times):
    """A small checkpoint one of whose layers gives values that fp16 does not hold."""
    spec = ModelSpec("swollen", width=48, depth=2, heads=2, input_size=128)
    encoder = load_untrained(spec, 2, seed=1).encoder
    save_transformers(spec, encoder.state_dict(), folder)
    tensors = load_file(folder / "model.safetensors")
    for name in ("fc1", "fc2"):
        tensors[f"encoder.layer.0.mlp.{name}.weight"] *= times
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


@pytest.mark.parametrize(
    ("times", "said"),
    [(3e6, r"layer0\.fc1\.weight reaches .*, more than float16 holds"), (2e3, "NaN or infinite")],
    ids=["weights", "activations"],
)
@pytest.mark.parametrize("force", [False, True])
def test_an_artifact_that_fails_does_not_lose_the_others(options, tmp_path, times, said, force):
    wanted = options(model=swollen(tmp_path / "model", times), precisions=("fp16", "fp32"), force=force, window=2)
    kept = export(wanted, silent)
    assert [artifact.precision for artifact in kept.artifacts] == ["fp32"]
    (reason,) = kept.refused
    assert re.match(rf"onnx fp16: failed: .*{said}", reason)
    assert sorted(path.name for path in kept.folder.iterdir()) == [
        "embed.onnx",
        "embed.onnx.data",
        "manifest.json",
        "onnx-fp32",
    ]
    encoder = EncoderConfig(model=str(kept.folder), window=2)
    assert load_backend(encoder, BackendConfig(threads=1)).info.precision == "fp32"


def test_where_every_artifact_fails_nothing_appears(options, tmp_path):
    wanted = options(model=swollen(tmp_path / "model", 3e6), precisions=("fp16",), window=2)
    with pytest.raises(ExportError, match=r"nothing was accepted\. onnx fp16: failed: layer0"):
        export(wanted, silent)
    assert list(wanted.out.parent.iterdir()) == []


def test_place_of_the_export_is_tried_before_the_model_is_loaded(options, tmp_path):
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    for out in ("file", "file/below", "thesis"):
        with pytest.raises((StorageError, OSError)):
            export(options(model="nothing at all", out=tmp_path / out), silent)


def test_home_is_found_in_the_place_of_the_export(options, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    kept = export(options(precisions=("fp32",), out=Path("~/export")), silent)
    assert kept.folder == tmp_path / "export"
    assert read_manifest("~/export").created == kept.created


def test_a_folder_that_is_no_export_is_never_overwritten(options):
    wanted = options(precisions=("fp32",))
    wanted.out.mkdir()
    (wanted.out / "thesis.tex").write_text("years of work")
    with pytest.raises(StorageError, match="nothing of yours is overwritten"):
        export(wanted, silent)
    assert (wanted.out / "thesis.tex").read_text() == "years of work"


def test_an_earlier_export_is_replaced_only_by_a_whole_one(options):
    wanted = options(precisions=("fp32",))
    first = export(wanted, silent)

    def stop(what: str, fraction: float) -> None:
        if fraction > 0.5:
            raise ExportCancelledError("enough")

    with pytest.raises(ExportCancelledError):
        export(replace(wanted, window=2), stop)
    assert read_manifest(str(wanted.out)).created == first.created
    assert export(replace(wanted, window=2), silent).shape["window"] == 2
    assert [path.name for path in wanted.out.parent.iterdir()] == [wanted.out.name]


def test_killed_at_any_moment_nothing_loads_and_the_next_export_cleans_up(clip, options):
    """Real processes, killed as the graph is written, and as it is measured."""
    wanted = options(precisions=("fp32",))
    code = (
        "import os, signal, sys; from pathlib import Path; from saccade_ros.export.exporter import *\n"
        "n = [int(sys.argv[3])]\n"
        "def progress(what, fraction):\n"
        "    n[0] -= 1\n"
        "    if n[0] == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "export(ExportOptions(model='tiny', window=3, tubelets=8, threads=1, precisions=('fp32',), "
        "out=Path(sys.argv[1]), calibration=sys.argv[2]), progress)"
    )
    for reports in (11, 21):
        command = [sys.executable, "-c", code, str(wanted.out), str(clip), str(reports)]
        assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
        assert not wanted.out.exists()
        assert not list(wanted.out.parent.rglob("manifest.json"))
    assert list(wanted.out.parent.iterdir())
    export(wanted, silent)
    assert [path.name for path in wanted.out.parent.iterdir()] == [wanted.out.name]


def test_a_precision_named_twice_is_made_once(options):
    assert options(precisions=("fp32", "int8", "fp32")).pairs() == [("onnx", "fp32"), ("onnx", "int8")]


# Fitting


@pytest.mark.parametrize(
    ("encoder", "backend", "said"),
    [
        ({"window": 4}, {}, "encoder.window is 4, but .* was exported for 3: set encoder.window to 3"),
        ({"recompute": 2}, {}, "encoder.recompute is 2, but .* was exported for 1"),
        ({"area_layers": 2}, {}, "encoder.area_layers is 2, but .* for 0: .* export again with --area-layers 2"),
        ({}, {"precision": "bf16"}, "holds no onnxruntime artifact of precision bf16; it has onnxruntime"),
        ({}, {"name": "tensorrt"}, "holds no tensorrt artifact"),
        ({}, {"name": "torch"}, "is an exported folder: set backend.name to auto"),
        ({}, {"device": "cuda"}, "no CUDAExecutionProvider .* install onnxruntime-gpu"),
        ({"model": "tiny"}, {"name": "tensorrt"}, "'tiny' is none: make one"),
    ],
)
def test_an_export_that_does_not_fit_is_refused_with_the_reason(manifest, encoder, backend, said):
    wanted = EncoderConfig(**{"model": str(manifest.folder), "window": 3, **encoder})
    with pytest.raises((ManifestError, BackendError), match=said):
        load_backend(wanted, BackendConfig(**backend))


def test_cpu_stands_in_for_the_gpu_only_when_allowed(manifest):
    settings = BackendConfig(device="cuda", precision="fp32", threads=1, allow_cpu_fallback=True)
    backend = load_backend(EncoderConfig(model=str(manifest.folder), window=3), settings)
    assert backend.info.device == "cpu"


def test_by_itself_a_gpu_build_takes_the_cpu_where_there_is_no_gpu(manifest, monkeypatch):
    """onnxruntime-gpu lists its provider everywhere, and leaves it out of a session that cannot have it."""
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnx_backend.ort, "get_available_providers", lambda: providers)
    encoder = EncoderConfig(model=str(manifest.folder), window=3)
    assert load_backend(encoder, BackendConfig(precision="fp32")).info.device == "cpu"
    with pytest.raises(BackendError, match="CUDAExecutionProvider was asked for, but ONNX Runtime fell back"):
        load_backend(encoder, BackendConfig(precision="fp32", device="cuda"))


def test_by_one_parameter_the_fastest_artifact_that_keeps_the_fidelity_runs(manifest):
    backend = load_backend(EncoderConfig(model=str(manifest.folder), window=3), BackendConfig(threads=1))
    kept = [a.precision for a in manifest.artifacts if a.parity["held_out"]["centred_cosine_mean"] >= 0.99]
    assert backend.info.precision == kept[0]
    again = load_backend(
        EncoderConfig(model=str(manifest.folder / "manifest.json"), window=3), BackendConfig(threads=1)
    )
    assert again.info.encoder_id == backend.info.encoder_id


def test_manifest_reads_back_as_it_was_written(manifest):
    assert replace(read_manifest(str(manifest.folder)), folder=manifest.folder) == manifest
    document = json.loads((manifest.folder / "manifest.json").read_text())
    assert set(document["files"]) == {
        path.relative_to(manifest.folder).as_posix()
        for path in manifest.folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


def test_interrupted_command_leaves_nothing(clip, tmp_path):
    command = [sys.executable, "-m", "saccade_ros.cli", "export", "--model", "vits", "--threads", "1"]
    command += ["--calibration", str(clip), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    deadline = time.monotonic() + 60
    while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert list(tmp_path.iterdir()) == []


def test_unknown_options_are_never_ignored():
    with pytest.raises(TypeError, match="quality"):
        ExportOptions(model="tiny", out="x", calibration="x", quality=3)
