"""The step on OpenVINO: it is torch's, over three windows, dense, sparse and held; and what does not fit is refused."""

import importlib.util
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from reference_model import random_clip

from saccade_ros.backends import BackendError, load_backend
from saccade_ros.backends.manifest import ManifestError, describe_files, seal
from saccade_ros.backends.window import WindowTables
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.export.exporter import export
from saccade_ros.measure.progress import silent

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install saccade_ros[openvino]")
from saccade_ros.backends.openvino_backend import (  # not where OpenVINO is missing
    OpenVinoState,
    compile_graph,
    compile_settings,
    fix_rows,
    read_graph,
    shared_core,
)

BOUNDS = {"fp32": 1e-4, "int8": 0.1, "int8-static": 0.2}


def has_nncf():
    return importlib.util.find_spec("nncf") is not None


@pytest.fixture(scope="module")
def exported(options):
    precisions = tuple(BOUNDS) if has_nncf() else ("fp32",)
    return export(options(formats=("openvino",), precisions=precisions), silent)


def load(exported, **backend):
    encoder = EncoderConfig(model=str(exported.folder), window=3)
    return load_backend(encoder, BackendConfig(**{"precision": "fp32", "threads": 1, **backend}))


@pytest.fixture
def torchs():
    return load_backend(EncoderConfig(model="tiny", window=3), BackendConfig(name="torch", threads=1))


def test_fp32_is_torch_over_the_whole_clip(exported):
    parity = exported.pick("openvino", "fp32").parity
    for clip in ("calibration", "held_out"):
        assert parity[clip]["max_relative_error"] <= 1e-4
        assert parity[clip]["centred_cosine_worst"] >= 0.9999


@pytest.mark.parametrize("precision", BOUNDS)
def test_dense_sparse_and_held_steps_are_torchs(exported, torchs, precision):
    if precision != "fp32" and not has_nncf():
        pytest.skip("NNCF is not installed")
    backend = load(exported, precision=precision)
    assert (backend.info.token_counts, backend.info.holds) == ((), True)
    state, reference = backend.new_state(), torchs.new_state()
    rng = np.random.default_rng(0)
    for n, pixels in enumerate(random_clip(13).numpy()):
        token_idx = np.sort(rng.permutation(64)[: rng.integers(1, 65)]) if n % 4 else None
        for one, of in ((state, backend), (reference, torchs)):
            if n % 6 == 5:
                one.hold()
            one.step(of.embed(pixels).patches, token_idx)
        expected = reference.tokens.numpy()
        assert np.abs(state.tokens[-1] - expected).max() <= BOUNDS[precision] * np.abs(expected).max(), n


@pytest.mark.parametrize("precision", ["int8", "int8-static"])
def test_int8_keeps_the_embeddings_and_is_a_quarter_of_the_size(exported, precision):
    if not has_nncf():
        pytest.skip("NNCF is not installed")
    artifact = exported.pick("openvino", precision)
    assert artifact.parity["held_out"]["centred_cosine_mean"] >= 0.99
    assert artifact.parity["bytes"] < 0.35 * artifact.parity["bytes_fp32"]


def test_streams_keep_apart_and_what_failed_leaves_no_trace(exported):
    backend = load(exported)
    patches = [backend.embed(p).patches for p in random_clip(6).numpy()]
    alone, state, other = backend.new_state(), backend.new_state(), backend.new_state()
    for n, p in enumerate(patches):
        if n in (1, 5):
            with pytest.raises(ArithmeticError, match="NaN or infinite"):
                state.step(np.full_like(p, np.nan))
            state.peek(p[::-1].copy())
        other.step(p[::-1].copy())
        assert np.array_equal(state.step(p), alone.step(p)), n
    state.reset()
    assert np.array_equal(state.step(patches[0]), backend.new_state().step(patches[0]))


def test_info_is_torchs_but_for_the_runtime(exported, torchs):
    info = load(exported).info
    assert info.encoder_id == torchs.info.encoder_id
    assert (info.backend, info.device, info.threads, info.dim) == ("openvino", "cpu", 1, 192)


def test_merging_and_recompute_are_exported(options):
    for changes in ({"merge": 8}, {"recompute": 2}, {"area_grid": "2x2", "area_layers": 2}):
        kept = export(options(formats=("openvino",), precisions=("fp32",), **changes), silent)
        assert kept.artifacts[0].parity["held_out"]["max_relative_error"] <= 1e-4, changes


def test_device_that_is_not_there_is_refused_with_what_there_is(exported):
    with pytest.raises(BackendError, match=r"backend.device is 'npu', but OpenVINO .* finds only CPU"):
        load(exported, name="openvino", device="npu")
    assert load(exported, device="npu", allow_cpu_fallback=True).info.device == "cpu"


def changed(exported, folder, change):
    """Copy the fp32 artifact, change its files, and make the manifest's hashes fit."""
    shutil.copytree(exported.folder, folder, ignore=shutil.ignore_patterns("*int8*", "openvino-cache"))
    document = json.loads((folder / "manifest.json").read_text())
    document["artifacts"] = [a for a in document["artifacts"] if a["precision"] == "fp32"]
    change(folder / "openvino-fp32")
    document["files"] = describe_files(folder)
    (folder / "manifest.json").write_text(json.dumps(seal(document)))
    return replace(exported, folder=folder)


def test_graph_of_another_export_is_refused(exported, options, tmp_path):
    other = export(options(formats=("openvino",), precisions=("fp32",), window=4), silent)
    source = other.folder / "openvino-fp32"
    foreign = changed(exported, tmp_path / "export", lambda place: shutil.copytree(source, place, dirs_exist_ok=True))
    with pytest.raises(ManifestError, match=r"step.xml: its graph's input keys_0 is .*, its manifest says"):
        load(foreign)


def test_file_that_was_changed_is_refused(exported, tmp_path):
    foreign = changed(exported, tmp_path / "export", lambda place: None)
    weights = tmp_path / "export" / "openvino-fp32" / "step.bin"
    weights.write_bytes(bytes(100) + weights.read_bytes()[100:])
    with pytest.raises(ManifestError, match="is not the file that was exported"):
        load(foreign)


@pytest.mark.parametrize("garbage", [b"", b"<net", b"\x00" * 500])
def test_graph_that_is_none_is_refused(exported, tmp_path, garbage):
    foreign = changed(exported, tmp_path / "export", lambda place: (place / "step.xml").write_bytes(garbage))
    with pytest.raises(BackendError, match=r"step.xml: OpenVINO .* cannot load it"):
        load(foreign)


def test_damaged_compiled_graph_is_compiled_again(exported, tmp_path):
    """OpenVINO itself computes with whatever numbers the file holds."""
    copied = changed(exported, tmp_path / "export", lambda place: None)
    patches = np.random.default_rng(0).standard_normal((64, 192), np.float32)
    expected = load(copied).new_state().step(patches)
    blobs = sorted((tmp_path / "export" / "openvino-cache").glob("*.blob"))
    assert len(blobs) == 2
    for damage in (lambda c: b"", lambda c: c[: len(c) // 2], lambda c: c[:50_000] + bytes(4000) + c[54_000:]):
        damaged = [damage(blob.read_bytes()) for blob in blobs]
        for blob, content in zip(blobs, damaged, strict=True):
            blob.write_bytes(content)
        assert np.array_equal(load(copied).new_state().step(patches), expected)
        assert [blob.read_bytes() for blob in blobs] != damaged


def test_device_that_compiles_no_open_sizes_gets_dense_steps(exported):
    """As an NPU does; on the CPU, the graph is the same."""
    core, file = shared_core(), exported.folder / "openvino-fp32" / "step.xml"
    graph, shape = read_graph(core, file, file.with_suffix(".bin")), exported.step_shape
    fix_rows(graph, 64)
    settings = compile_settings(core, "CPU", "fp32", 1)
    step = compile_graph("step", lambda: core.compile_model(graph, "CPU", settings))
    fixed, whole = OpenVinoState(step, shape, WindowTables(shape), EncoderConfig()), load(exported).new_state()
    for seed in range(5):
        patches = np.random.default_rng(seed).standard_normal((64, 192), np.float32)
        assert np.allclose(fixed.step(patches), whole.step(patches), atol=1e-5)
