"""The choice of kernels: which form is taken where, with a stand-in for the library where the processor lacks AMX."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from torch import nn

import saccade_ros
from saccade_ros.encoder import amx
from saccade_ros.encoder.amx import AmxAttention, AmxLinear
from saccade_ros.encoder.attention import FusedAttention, MatmulAttention
from saccade_ros.encoder.kernels import choose_attention, describe, pack_linears
from saccade_ros.encoder.linear import Int8Linear, Linear, PackedLinear
from saccade_ros.encoder.rope import rotary_tables
from saccade_ros.encoder.spec import ModelSpec

PACKAGE = Path(saccade_ros.__file__).parent
CPU = torch.device("cpu")
SPEC = ModelSpec("spec", width=192, depth=1, heads=3, input_size=128)  # E 64, S 64
ODD = ModelSpec("odd", width=192, depth=1, heads=3, input_size=112)  # S 49

# What is shown of a processor by names that are not the kernels': `saccade doctor` lists its instruction sets.
INSTRUCTION_SETS = {"AMX bf16", "amx_bf16", "AMX int8", "amx_int8"}


def library(amx_available: bool) -> defaultdict:
    """A library that says whether the processor has AMX and has every other function too, none of which is called."""
    functions = defaultdict(object, saccade_amx_available=lambda: int(amx_available))
    return type("Library", (), {"__getattr__": lambda self, name: functions[name]})()


@pytest.fixture
def with_amx(monkeypatch):
    monkeypatch.setattr(amx, "library", lambda: library(True))


def chosen(spec: ModelSpec, dtype: torch.dtype) -> type:
    return type(choose_attention(spec, rotary_tables(spec, 2), CPU, dtype))


@pytest.mark.usefixtures("with_amx")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ours_serve_where_the_processor_has_amx(dtype):
    layers = nn.Sequential(Linear(64, 64))
    pack_linears(layers, dtype, rows=8)
    assert chosen(SPEC, dtype) is AmxAttention
    assert type(layers[0]) is AmxLinear
    assert chosen(ODD, dtype) is not AmxAttention, "tiles do not fit its tokens"


@pytest.mark.usefixtures("with_amx")
def test_areas_are_left_to_torch():
    chosen = choose_attention(SPEC, rotary_tables(SPEC, 2), CPU, torch.float32, by_area=True)
    assert type(chosen) is FusedAttention


@pytest.mark.usefixtures("with_amx")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions_are_left_to_torch(dtype):
    layers = nn.Sequential(Linear(64, 64))
    pack_linears(layers, dtype, rows=8)
    assert chosen(SPEC, dtype) is FusedAttention
    assert type(layers[0]) is Linear


@pytest.mark.usefixtures("torch_kernels")
@pytest.mark.parametrize(("matrix_unit", "kernel"), [(False, MatmulAttention), (True, FusedAttention)])
def test_plain_products_are_for_bf16_without_a_matrix_unit(monkeypatch, matrix_unit, kernel):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: matrix_unit)
    assert chosen(SPEC, torch.bfloat16) is kernel
    assert chosen(SPEC, torch.float32) is FusedAttention


def test_packing_replaces_every_linear_of_a_module():
    module = nn.Sequential(Linear(64, 64), nn.ModuleDict({"inner": Linear(4, 4)}))
    pack_linears(module, torch.float32, rows=8)
    assert not any(isinstance(part, Linear) for part in module.modules())
    assert isinstance(module[1]["inner"], PackedLinear)  # tiles do not fit it


@pytest.mark.usefixtures("torch_kernels")
def test_int8_is_torchs_without_amx():
    module = nn.Sequential(Linear(64, 64))
    pack_linears(module, torch.bfloat16, rows=8, int8=True)
    assert type(module[0]) is Int8Linear


@pytest.mark.parametrize(
    ("built", "processor_has_amx", "best", "text"),
    [
        (library(True), True, True, "on AMX: fp32, bf16, int8"),
        (library(False), False, True, "ours need AMX, which this processor or system lacks"),
        (None, False, True, "ours need AMX, which this processor or system lacks"),
        (None, True, False, "ours for AMX were not built"),
    ],
    ids=["AMX", "built in vain", "neither", "not built"],
)
def test_description_tells_what_a_build_would_bring(monkeypatch, built, processor_has_amx, best, text):
    monkeypatch.setattr(amx, "library", lambda: built)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: processor_has_amx)
    said = describe()
    assert said[0] is best
    assert text in said[1]


def names_in(file: Path) -> set[str]:
    """All that a file's code says: names, attributes, imports and text, but neither docstrings nor comments."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {id(n.body[0].value) for n in ast.walk(tree) if isinstance(n, documented) and ast.get_docstring(n)}
    found = {file.stem}
    for node in ast.walk(tree):
        if id(node) not in docstrings:
            found |= {value for _, value in ast.iter_fields(node) if isinstance(value, str)}
    return found


def test_only_the_seam_and_its_wrapper_know_of_our_kernels():
    mention = re.compile(r"amx|(?<![a-z])native|avx512norm", re.IGNORECASE)
    knowing = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        if any(mention.search(name) for name in names_in(file) - INSTRUCTION_SETS)
    }
    assert knowing == {"encoder/kernels.py", "encoder/amx.py"}
