"""Corrupt, truncated and foreign exports are refused with a reason; none crashes its process. 200 mutations."""

import json
import random
import re
import shutil
import subprocess
import sys

import onnx
import pytest

from saccade_ros.backends import BackendError, load_backend
from saccade_ros.backends.manifest import ManifestError, describe_files, read_manifest, seal
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.export.exporter import export
from saccade_ros.measure.progress import silent

MUTATIONS = 120  # of files, each refused by its hash; the rest are those that the hash cannot see
FOREIGN = 40
DOCUMENTS = 40

LOAD = """
import json, sys
from saccade_ros.backends import BackendError, load_backend
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.backends.manifest import ManifestError
import numpy as np
for folder in sys.argv[1:]:
    try:
        backend = load_backend(EncoderConfig(model=folder, window=3), BackendConfig(precision="fp32", threads=1))
        backend.new_state().step(backend.embed(np.zeros((2, 3, 128, 128), np.float32)).patches)
        print(json.dumps("ran"), flush=True)
    except (BackendError, ManifestError, ArithmeticError, ValueError, RuntimeError) as refused:
        print(json.dumps(str(refused)), flush=True)
"""


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, double, blank or replace."""
    at, length = rng.randrange(len(data)), 1 + rng.randrange(64)
    return rng.choice(
        (
            lambda: data[:at],
            lambda: data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :],
            lambda: data[:at] + rng.randbytes(length) + data[at + length :],
            lambda: data[:at] + data[at : at + length] + data[at:],
            lambda: data[:at] + bytes(length) + data[at + length :],
            lambda: rng.randbytes(length),
            lambda: b"",
        )
    )()


def small_copy(manifest, folder):
    """The fp32 artifact alone."""
    shutil.copytree(manifest.folder, folder, ignore=shutil.ignore_patterns("onnx-fp16", "onnx-int*"))
    document = json.loads((folder / "manifest.json").read_text())
    document["artifacts"] = [a for a in document["artifacts"] if a["precision"] == "fp32"]
    document["files"] = describe_files(folder)
    (folder / "manifest.json").write_text(json.dumps(seal(document)))
    return folder


def test_mutated_files_are_refused_by_name(manifest, tmp_path):
    folder, rng = small_copy(manifest, tmp_path / "export"), random.Random(0)
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    encoder, backend = EncoderConfig(model=str(folder), window=3), BackendConfig(precision="fp32", threads=1)
    load_backend(encoder, backend)
    for i in range(MUTATIONS):
        file = files[i % len(files)]
        data = file.read_bytes()
        changed = mutate(data, rng)
        if changed == data or (file.name == "manifest.json" and not is_broken(changed, data)):
            continue
        file.write_bytes(changed)
        with pytest.raises((ManifestError, BackendError), match=re.escape(str(folder))):
            load_backend(encoder, backend)
        file.write_bytes(data)


def is_broken(changed: bytes, data: bytes) -> bool:
    """Not merely other white space in a manifest that says the same."""
    try:
        return bool(json.loads(changed) != json.loads(data))
    except ValueError:
        return True


def test_graphs_that_hash_well_and_are_garbage_never_crash(manifest, tmp_path):
    """The manifest's hashes are made to fit, as an attacker or a broken exporter would; in processes of their own."""
    rng, folders = random.Random(1), []
    for i in range(FOREIGN):
        folder = small_copy(manifest, tmp_path / f"export{i}")
        file = folder / ("onnx-fp32/step.onnx" if i % 4 else "embed.onnx")
        file.write_bytes(mutate(file.read_bytes(), rng))
        document = json.loads((folder / "manifest.json").read_text())
        document["files"] = describe_files(folder)
        (folder / "manifest.json").write_text(json.dumps(seal(document)))
        folders.append(str(folder))
    command = [sys.executable, "-c", LOAD, *folders]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == FOREIGN
    assert all(answers)
    assert sum(answer != "ran" for answer in answers) > FOREIGN / 2


def test_documents_that_are_no_manifest_are_refused(manifest, tmp_path):
    folder, rng = small_copy(manifest, tmp_path / "export"), random.Random(2)
    file = folder / "manifest.json"
    good = json.loads(file.read_text())
    junk = [None, -1, 0, 1.5, "", "../../etc/passwd", [], {}, True, "x" * 1000, 2**70]
    encoder, backend = EncoderConfig(model=str(folder), window=3), BackendConfig(precision="fp32", threads=1)
    refused = 0
    for _ in range(DOCUMENTS):
        document = json.loads(json.dumps(good))
        target = document
        while True:
            key = rng.choice(list(target) if isinstance(target, dict) else range(len(target)))
            if isinstance(target[key], dict | list) and target[key] and rng.random() < 0.7:
                target = target[key]
                continue
            target[key] = rng.choice(junk)
            break
        file.write_text(json.dumps(seal(document)))
        try:
            load_backend(encoder, backend)
        except (ManifestError, BackendError):
            refused += 1
    assert refused > DOCUMENTS / 2


def rewrite(folder, change):
    """Change what a manifest says, as somebody would who makes its checksum right."""
    file = folder / "manifest.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(seal(document)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("created",), "yesterday"),
        (("model", "patch_scale"), 1.0),
        (("model", "is_random"), False),
        (("model", "sha256"), "0" * 64),
        (("spec", "norm_eps"), 1e-5),
        (("artifacts", 0, "precision"), "int8"),
        (("refused",), ["nothing"]),
        (("checksum",), "0" * 64),
        (("checksum",), None),
    ],
)
def test_manifest_that_was_changed_after_the_export_is_refused(manifest, tmp_path, path, value):
    folder = small_copy(manifest, tmp_path / "export")
    document = json.loads((folder / "manifest.json").read_text())
    *way, last = path
    part = document
    for step in way:
        part = part[step]
    part[last] = value
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(ManifestError, match="its checksum is another: it was changed after the export"):
        read_manifest(str(folder))


def test_manifest_may_be_laid_out_anew(manifest, tmp_path):
    folder = small_copy(manifest, tmp_path / "export")
    document = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(document, sort_keys=True, indent=7))
    assert read_manifest(str(folder)).created == manifest.created


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("spec", {"rope": "interleaved"}, "its graph was made for .*tiled.*, its manifest says .*interleaved"),
        ("spec", {"rope_grid": 16}, "its graph was made for"),
        ("spec", {"norm_eps": 1e-5}, "its graph was made for"),
        ("spec", {"frames_per_clip": 32}, "its graph was made for"),
        ("spec", {"input_size": 256}, r"input pixels is \[2, 3, 128, 128\], its manifest says \[2, 3, 256, 256\]"),
        ("spec", {"input_size": 64, "patch_size": 8}, r"input pixels is \[2, 3, 128, 128\]"),
        ("spec", {"width": 96}, r"output patches is \[64, 192\], its manifest says \[64, 96\]"),
        ("spec", {"heads": 4}, "its graph was made for"),
        ("spec", {"depth": 5}, "its graph was made for"),
        ("shape", {"window": 4}, r"input keys_0 is \[1, 3, 192, 88\], its manifest says \[1, 3, 256, 88\]"),
        ("shape", {"recompute": 2}, r"input .* is .*, its manifest says"),
        ("shape", {"merge": 8}, r"input .* is .*, its manifest says"),
        ("shape", {"area_rows": 2, "area_columns": 2, "area_layers": 2}, "input area_counts is None"),
    ],
)
def test_manifest_that_says_another_step_than_its_graphs_is_refused(manifest, tmp_path, part, changes, said):
    folder = small_copy(manifest, tmp_path / "export")
    rewrite(folder, lambda document: document[part].update(changes))
    shape = read_manifest(str(folder)).settings
    with pytest.raises(ManifestError, match=said):
        load_backend(EncoderConfig(model=str(folder), **shape), BackendConfig(precision="fp32", threads=1))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("contract", "the other", "output .* is .*, its manifest says"),
        ("precision", "fp16", "its graph is not fp16, which its manifest says it is"),
    ],
)
def test_manifest_that_says_another_artifact_than_its_graph_is_refused(manifest, tmp_path, name, value, said):
    folder = small_copy(manifest, tmp_path / "export")
    if value == "the other":  # than what this ONNX Runtime can do, and the export therefore has
        value = {"scatter": "host", "host": "scatter"}[manifest.pick("onnxruntime", "fp32").contract]
    rewrite(folder, lambda document: document["artifacts"][0].update({name: value}))
    with pytest.raises(ManifestError, match=said):
        load_backend(EncoderConfig(model=str(folder), window=3), BackendConfig(threads=1))


def test_graph_of_another_export_with_hashes_that_fit_is_refused(manifest, options, tmp_path):
    other = export(options(precisions=("fp32",), recompute=2), silent)
    folder = small_copy(manifest, tmp_path / "export")
    for name in ("step.onnx", "step.onnx.data"):
        shutil.copy(other.folder / "onnx-fp32" / name, folder / "onnx-fp32" / name)
    rewrite(folder, lambda document: document.update(files=describe_files(folder)))
    with pytest.raises(ManifestError, match=r"onnx-fp32/step\.onnx: its graph's input .* another export"):
        load_backend(EncoderConfig(model=str(folder), window=3), BackendConfig(threads=1))


@pytest.mark.parametrize(
    "location",
    ["evil.data", "../evil.data", "../embed.onnx.data", "/etc/passwd", "{folder}/onnx-fp32/step.onnx.data", ""],
)
def test_a_graph_reads_no_file_that_is_not_in_its_manifests_list(manifest, tmp_path, monkeypatch, location):
    """Neither one that lies beside it, nor one in the folder that the process was started in."""
    folder = small_copy(manifest, tmp_path / "export")
    file = folder / "onnx-fp32" / "step.onnx"
    graph = onnx.load(file, load_external_data=False)
    for entry in (entry for tensor in graph.graph.initializer for entry in tensor.external_data):
        entry.value = location.format(folder=folder) if entry.key == "location" else entry.value
    onnx.save(graph, file)
    rewrite(folder, lambda document: document.update(files=describe_files(folder)))
    for place in (file.parent / "evil.data", folder / "evil.data"):
        shutil.copy(file.with_name("step.onnx.data"), place)
    monkeypatch.chdir(file.parent)
    with pytest.raises(BackendError, match=r"step\.onnx: ONNX Runtime .* cannot load it"):
        load_backend(EncoderConfig(model=str(folder), window=3), BackendConfig(threads=1))


@pytest.mark.parametrize(
    ("key", "value"), [("offset", "{size}"), ("offset", "-8"), ("length", "9999999999"), ("offset", "x")]
)
def test_a_graph_reads_nothing_beyond_the_end_of_its_data(manifest, tmp_path, key, value):
    folder = small_copy(manifest, tmp_path / "export")
    file = folder / "onnx-fp32" / "step.onnx"
    graph = onnx.load(file, load_external_data=False)
    for entry in (entry for tensor in graph.graph.initializer for entry in tensor.external_data):
        size = file.with_name("step.onnx.data").stat().st_size
        entry.value = value.format(size=size) if entry.key == key else entry.value
    onnx.save(graph, file)
    rewrite(folder, lambda document: document.update(files=describe_files(folder)))
    with pytest.raises(BackendError, match="cannot load it"):
        load_backend(EncoderConfig(model=str(folder), window=3), BackendConfig(threads=1))


def test_other_files_in_the_folder_are_left_alone(manifest, tmp_path):
    folder = small_copy(manifest, tmp_path / "export")
    (folder / "NOTES.txt").write_text("mine")
    (folder / "onnx-fp32" / "step.onnx.data.bak").write_bytes(b"x")
    load_backend(EncoderConfig(model=str(folder), window=3), BackendConfig(threads=1))


def test_a_file_outside_the_export_is_never_named(manifest, tmp_path):
    folder = small_copy(manifest, tmp_path / "export")
    document = json.loads((folder / "manifest.json").read_text())
    document["files"]["../secret"] = {"bytes": 1, "sha256": "0"}
    (folder / "manifest.json").write_text(json.dumps(seal(document)))
    with pytest.raises(ManifestError, match="outside the export"):
        load_backend(EncoderConfig(model=str(folder), window=3), BackendConfig())


@pytest.mark.parametrize("files", [[], "", 3, None])
def test_manifest_without_a_table_of_files_is_refused(manifest, tmp_path, files):
    document = json.loads((manifest.folder / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(seal({**document, "files": files})))
    with pytest.raises(ManifestError, match="it was changed or is not ours: make the export again"):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("spec", "heads", 0),
        ("spec", "heads", 5),
        ("spec", "width", "192"),
        ("spec", "patch_size", True),
        ("spec", "rope", "spiral"),
        ("spec", "rope_grid", -1),
        ("spec", "norm_eps", float("nan")),
        ("spec", "frames_per_clip", 2),
        ("spec", "depth", 20_000),
        ("spec", "input_size", 65536),
        ("spec", "mlp_width", 10**6),
        ("shape", "window", 0),
        ("shape", "recompute", 4),
        ("shape", "batch", 2**40),
        ("shape", "area_rows", 100),
        ("shape", "area_layers", -1),
    ],
)
def test_manifest_of_an_impossible_step_is_refused(manifest, tmp_path, part, name, value):
    document = json.loads((manifest.folder / "manifest.json").read_text())
    assert name in document[part]
    document[part][name] = value
    (tmp_path / "manifest.json").write_text(json.dumps(seal(document)))
    with pytest.raises(ManifestError, match="it was changed or is not ours: make the export again"):
        read_manifest(str(tmp_path))
    del document[part][name]
    (tmp_path / "manifest.json").write_text(json.dumps(seal(document)))
    with pytest.raises(ManifestError, match=f"KeyError '{name}'"):
        read_manifest(str(tmp_path))


def test_manifest_of_another_version_is_refused(manifest, tmp_path):
    folder = small_copy(manifest, tmp_path / "export")
    document = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(seal({**document, "version": 99})))
    with pytest.raises(ManifestError, match="manifest version 99, this package reads 4: export again"):
        load_backend(EncoderConfig(model=str(folder), window=3), BackendConfig())
