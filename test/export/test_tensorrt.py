"""The whole exported step parses and builds through TensorRT-RTX without a GPU; what needs one is refused plainly."""

from dataclasses import replace

import numpy as np
import pytest
from reference_model import random_clip

from saccade_ros.backends import cuda_runtime
from saccade_ros.backends.base import BackendError, token_buckets
from saccade_ros.backends.cuda_runtime import can_run
from saccade_ros.backends.manifest import Artifact, ManifestError, read_manifest
from saccade_ros.backends.tensorrt_backend import as_stored, open_state
from saccade_ros.backends.tensorrt_engine import check_built_for, describe_tensorrt, load_tensorrt
from saccade_ros.backends.window import INVALID
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.encoder.areas import Areas
from saccade_ros.encoder.weights import load_encoder
from saccade_ros.export import tensorrt_builder
from saccade_ros.export.exporter import export
from saccade_ros.export.graph import ExportError, build_step, step_shape
from saccade_ros.measure.progress import silent

pytest.importorskip("tensorrt_rtx_bindings", reason="needs the tensorrt_rtx_cu13 wheels of requirements-dev.txt")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "saccade_ros" / "engines"


@pytest.fixture
def trt():
    return load_tensorrt()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("contract", ["host", "scatter"])
def test_whole_step_builds_without_a_gpu(trt, tmp_path, precision, contract):
    """Dense steps: scatter becomes KVCacheUpdate; the engine keeps all inputs and outputs, and is strongly typed."""
    encoder = load_encoder("tiny", 3).encoder
    source, target = tmp_path / "step.onnx", tmp_path / "step.engine"
    build_step(encoder, 1, contract, precision, "dense").save(source)
    tensorrt_builder.build_engine(trt, source, target, silent)
    assert target.stat().st_size > 2 * sum(p.numel() for p in encoder.layers.parameters())
    assert not list(tmp_path.glob(".*")), "no partial file"


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("contract", ["host", "scatter"])
def test_sparse_steps_build_without_a_gpu_as_profiles_of_one_engine(trt, tmp_path, precision, contract):
    encoder = load_encoder("tiny", 3).encoder
    source, target = tmp_path / "step.onnx", tmp_path / "step.engine"
    build_step(encoder, 1, contract, precision, "sparse").save(source)
    tensorrt_builder.build_engine(trt, source, target, silent, token_buckets(encoder.spec.tokens)[:-1])
    assert target.stat().st_size > 2 * sum(p.numel() for p in encoder.layers.parameters())


def test_default_model_builds_without_a_gpu(trt, tmp_path):
    source, target = tmp_path / "step.onnx", tmp_path / "step.engine"
    build_step(load_encoder("default", 8).encoder, 1, "scatter", "fp16", "dense").save(source)
    tensorrt_builder.build_engine(trt, source, target, silent)
    assert target.stat().st_size > 1_000_000


def test_recompute_builds_with_host_written_slots(trt, tmp_path):
    encoder = load_encoder("tiny", 4, 2).encoder
    contract = tensorrt_builder.find_contract(trt, encoder.recompute)
    assert (contract, tensorrt_builder.find_contract(trt, 1)) == ("host", "scatter")
    build_step(encoder, 1, contract, "fp16").save(tmp_path / "step.onnx")
    tensorrt_builder.build_engine(trt, tmp_path / "step.onnx", tmp_path / "step.engine", silent)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_merged_steps_build_without_a_gpu(trt, tmp_path, precision):
    encoder = load_encoder("tiny", 3, merge=8).encoder
    artifact = tensorrt_builder.build_artifact(encoder, 1, precision, tmp_path, silent)
    assert set(artifact.files) == {"embed_engine", "engine"}, "no engine of sparse steps"


def test_areas_build_for_dense_steps_alone(trt, tmp_path):
    encoder = load_encoder("tiny", 3).encoder
    encoder.attend_by_area(Areas.of(encoder.spec, 3, 2, 2))
    artifact = tensorrt_builder.build_artifact(encoder, 1, "fp16", tmp_path, silent)
    assert set(artifact.files) == {"embed_engine", "engine"}


def test_build_reports_and_stops_when_told(trt, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorrt_builder, "REPORT_EVERY_S", 0.0)
    build_step(load_encoder("tiny", 3).encoder, 1, "host", "fp16", "dense").save(tmp_path / "step.onnx")
    fractions = []
    whole = tmp_path / "whole.engine"
    tensorrt_builder.build_engine(trt, tmp_path / "step.onnx", whole, lambda what, fraction: fractions.append(fraction))
    assert len(fractions) > 10
    assert 0 <= min(fractions) <= max(fractions) == 1.0

    def stop(what, fraction):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tensorrt_builder.build_engine(trt, tmp_path / "step.onnx", tmp_path / "stopped.engine", stop)
    assert not (tmp_path / "stopped.engine").exists()


def test_graph_that_does_not_parse_is_refused_with_the_reason(trt, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(ExportError, match="cannot parse the step"):
        tensorrt_builder.build_engine(trt, tmp_path / "bad.onnx", tmp_path / "bad.engine", silent)


def test_engine_is_kept_under_all_it_depends_on(trt, tmp_path, own_cache, monkeypatch):
    encoder = load_encoder("tiny", 3).encoder
    first = tensorrt_builder.build_artifact(encoder, 1, "fp16", tmp_path, silent)
    engines = {path.name for path in own_cache.glob("*.engine")}
    assert len(engines) == 3, "dense and sparse step, and front end"
    assert set(first.files) == {"embed_engine", "engine", "sparse_engine"}
    monkeypatch.setattr(tensorrt_builder, "build_engine", lambda *_: pytest.fail("built again"))
    assert tensorrt_builder.build_artifact(encoder, 1, "fp16", tmp_path, silent) == first
    assert first.built_for["tensorrt"] == describe_tensorrt(trt)
    source = tmp_path / "step.onnx"
    build_step(encoder, 1, "host", "fp16").save(source)
    key = tensorrt_builder.engine_key(source, trt, "fp16")
    assert key != tensorrt_builder.engine_key(source, trt, "bf16")
    assert key != tensorrt_builder.engine_key(source, trt, "fp16", (8, 16))
    source.write_bytes(source.read_bytes() + b"\x00")
    assert key != tensorrt_builder.engine_key(source, trt, "fp16")


@pytest.mark.skipif(can_run(), reason="says what happens without a GPU")
def test_without_a_gpu_an_engine_is_kept_only_by_force_and_refused_at_load(options):
    wanted = options(formats=("onnx", "tensorrt"), precisions=("fp32", "bf16"), force=False)
    manifest = export(wanted, silent)
    assert [a.runtime for a in manifest.artifacts] == ["onnxruntime"]
    assert any("tensorrt bf16: not measured" in reason for reason in manifest.refused)

    forced = export(options(formats=("tensorrt",), precisions=("bf16",)), silent)
    assert "not measured" in read_manifest(str(forced.folder)).artifacts[0].warnings[0]
    from saccade_ros.backends import load_backend

    wanted = BackendConfig(name="tensorrt", precision="bf16")
    with pytest.raises(BackendError, match=r"CUDA: .*is there an NVIDIA GPU"):
        load_backend(EncoderConfig(model=str(forced.folder), window=3), wanted)
    with pytest.raises(BackendError, match="tensorrt runs on cuda only"):
        load_backend(EncoderConfig(model=str(forced.folder), window=3), replace(wanted, device="cpu"))
    with pytest.raises(ManifestError, match=r"nothing that can run here as asked \(tensorrt bf16: needs an NVIDIA GPU"):
        load_backend(EncoderConfig(model=str(forced.folder), window=3), BackendConfig())


def test_batches_are_not_measured_on_single_streams_where_a_gpu_could_run_them(options, monkeypatch):
    monkeypatch.setattr(cuda_runtime, "can_run", lambda: True)
    kept = export(options(formats=("tensorrt",), precisions=("fp32",), batch=2), silent)
    assert kept.artifacts[0].warnings == ["not measured: the clips are single streams"]


def test_engine_of_another_tensorrt_or_gpu_is_refused(trt):
    built_for = {"tensorrt": describe_tensorrt(trt), "gpu": "NVIDIA Thor sm_110"}
    with pytest.raises(ManifestError, match=r"built for gpu 'NVIDIA Thor sm_110', here is .*: export again here"):
        check_built_for(Artifact("tensorrt", "fp16", "host", {}, built_for=built_for), trt)
    built_for = {"tensorrt": "tensorrt 10.3.0", "gpu": "none"}
    with pytest.raises(ManifestError, match=r"built for tensorrt 'tensorrt 10\.3\.0'"):
        check_built_for(Artifact("tensorrt", "fp16", "host", {}, built_for=built_for), trt)


def test_empty_ring_in_an_engines_type():
    values = np.array([INVALID, 0.0, 1.0], np.float32)
    assert as_stored(values, 2, bf16=False).tolist() == [INVALID, 0.0, 1.0]
    bits = as_stored(values, 2, bf16=True)
    back = (bits.astype(np.uint32) << 16).view(np.float32)
    assert back.tolist()[1:] == [0.0, 1.0]
    assert abs(back[0] - INVALID) < 256


@pytest.mark.gpu
@pytest.mark.skipif(not can_run(), reason="needs an NVIDIA GPU: the engine's runtime is unverified here")
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("fp16", 1e-2), ("bf16", 5e-2)])
@pytest.mark.parametrize(("recompute", "merge"), [(1, 0), (2, 0), (1, 8)])
def test_engine_computes_what_torch_does(tmp_path, precision, tolerance, recompute, merge):
    if merge and precision != "fp32":
        pytest.skip("rounding moves matches, and with them tokens")
    encoder = load_encoder("tiny", 3, recompute, merge=merge).encoder
    artifact = tensorrt_builder.build_artifact(encoder, 1, precision, tmp_path, silent)
    state, ring = open_state(tmp_path, artifact, step_shape(encoder)), encoder.new_ring()
    buckets = token_buckets(encoder.spec.tokens)
    for n, tubelet in enumerate(random_clip(11)):
        patches = encoder.embed(tubelet)
        plan = np.arange(buckets[n % 4]) if n % 3 and recompute == 1 and not merge else None
        expected = encoder.step([patches], [ring], [plan])[0].tokens[-1].numpy()
        state.step(patches.numpy(), plan)
        assert np.abs(state.tokens[-1] - expected).max() <= tolerance * np.abs(expected).max()
