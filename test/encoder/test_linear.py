"""Packed linear layers compute what unpacked ones do: oneDNN's, and ours on the matrix unit."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from saccade_ros.encoder.amx import AmxLinear, amx_available
from saccade_ros.encoder.linear import Int8Linear, Linear, PackedLinear, quantize_rows
from saccade_ros.encoder.weights import load_encoder

needs_amx = pytest.mark.skipif(not amx_available(), reason="needs a processor with AMX and the kernels colcon builds")
needs_bf16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bf16 arithmetic on this processor"
)
# inputs, outputs: one block of tiles; ViT-S's; no whole number of chunks; and inputs that are summed in pieces
SIZES = [(64, 32), (384, 1152), (1408, 352), (4096, 256)]
ROWS = [1, 31, 32, 33, 257, 600]


def layer(inputs: int, outputs: int, dtype: torch.dtype) -> Linear:
    torch.manual_seed(0)
    return Linear(inputs, outputs).to(dtype)


def exactly(linear: Linear, x: Tensor) -> Tensor:
    return F.linear(x.double(), linear.weight.detach().double(), linear.bias.detach().double())


def error(got: Tensor, exact: Tensor) -> float:
    return float((got.double() - exact).norm() / exact.norm())


@needs_bf16
@pytest.mark.parametrize("rows", [64, 32])  # as packed for, and another number
def test_onednn_gives_the_plain_layer_to_bf16_rounding(rows):
    linear = layer(96, 160, torch.bfloat16)
    packed = PackedLinear(linear, torch.bfloat16, rows=64)
    x = torch.randn(rows, 96).bfloat16()
    exact = exactly(linear, x)
    with torch.inference_mode():
        for got, expected in ((packed(x), exact), (packed.gelu(x), F.gelu(exact))):
            assert got.dtype == torch.bfloat16
            assert error(got, expected) < 0.004


@needs_amx
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_amx_is_as_close_to_exact_as_onednn_and_in_fp32_to_6e_7(inputs, outputs, rows, dtype):
    linear = layer(inputs, outputs, dtype)
    ours, onednn = AmxLinear(linear, dtype), PackedLinear(linear, dtype, rows)
    x = torch.randn(rows, inputs).to(dtype)
    exact = exactly(linear, x)
    with torch.inference_mode():
        for got, theirs, expected in ((ours(x), onednn(x), exact), (ours.gelu(x), onednn.gelu(x), F.gelu(exact))):
            assert got.dtype == dtype
            bound = max(1.02 * error(theirs, expected), 6e-7 if dtype == torch.float32 else 0)
            assert error(got, expected) <= bound


@needs_amx
def test_gelu_is_close_to_erf_everywhere():
    """Weights of one pass each input on; from far below zero to far above."""
    passing = Linear(64, 64)
    passing.load_state_dict({"weight": torch.eye(64), "bias": torch.zeros(64)})
    x = torch.linspace(-12, 12, 6400).reshape(100, 64)
    for dtype, tolerance in ((torch.float32, 5e-7), (torch.bfloat16, 4e-5)):
        given = x.to(dtype)
        exact = F.gelu(given.double())
        off = (AmxLinear(passing, dtype).gelu(given).double() - exact).abs()
        rounding = exact.abs() * torch.finfo(dtype).eps
        assert (off <= tolerance + rounding).all()


@needs_amx
@pytest.mark.parametrize(("dtype", "int8"), [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)])
def test_amx_gives_the_same_bits_for_any_number_of_threads(dtype, int8):
    linear = AmxLinear(layer(4096, 96, torch.float32), dtype, int8)
    x = torch.randn(70, 4096).to(dtype)
    threads = torch.get_num_threads()
    try:
        outputs = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            outputs.append(linear(x))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@pytest.mark.usefixtures("amx_kernels")
@pytest.mark.parametrize(("dtype", "int8"), [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)])
@pytest.mark.parametrize("rows", [1, 7, 33])
def test_amx_gives_a_row_the_same_bits_whichever_others_are_with_it(rows, dtype, int8):
    """So a sparse step's tokens are those of the dense one."""
    linear = AmxLinear(layer(1408, 96, torch.float32), dtype, int8)
    x = torch.randn(256, 1408).to(dtype)
    row_idx = torch.randperm(256)[:rows]
    assert torch.equal(linear(x[row_idx]), linear(x)[row_idx])
    assert torch.equal(linear.gelu(x[row_idx]), linear.gelu(x)[row_idx])


@needs_amx
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_amx_passes_nan_on_in_its_row_only(dtype):
    x = torch.randn(40, 64).to(dtype)
    x[33, 5] = torch.nan
    out = AmxLinear(layer(64, 32, torch.float32), dtype).gelu(x)
    assert out[33].isnan().all()
    assert out[[i for i in range(40) if i != 33]].isfinite().all()


@needs_amx
@pytest.mark.parametrize("x", [torch.zeros(4, 128), torch.zeros(4, 64).bfloat16()], ids=["width", "type"])
def test_amx_refuses_another_input(x):
    with pytest.raises(ValueError, match=r"takes \(N, 64\) in torch.float32"):
        AmxLinear(layer(64, 32, torch.float32), torch.float32)(x)


@pytest.mark.parametrize("kernel", ["ours", "torch"])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_int8_rounds_weights_by_output_and_inputs_by_row_and_nothing_else(inputs, outputs, rows, kernel):
    if kernel == "ours" and not amx_available():
        pytest.skip("needs a processor with AMX and the kernels colcon builds")
    linear = layer(inputs, outputs, torch.float32)
    x = torch.randn(rows, inputs).bfloat16() * torch.logspace(-3, 3, rows)[:, None].bfloat16()
    weight, weight_scales = quantize_rows(linear.weight.detach())
    values, scales = quantize_rows(x.float())
    exact = (values.double() @ weight.t().double()) * scales * weight_scales.t() + linear.bias.detach()
    int8 = AmxLinear(linear, torch.bfloat16, int8=True) if kernel == "ours" else Int8Linear(linear)
    assert error(int8(x), exact) < 0.003
    assert error(int8.gelu(x), F.gelu(exact)) < 0.003


@pytest.mark.parametrize("kernel", ["as chosen", "torch"])
def test_int8_stream_stays_near_the_fp32_one(request, kernel):
    """Centred cosine of the embeddings, over more than four windows."""
    if kernel == "torch":
        request.getfixturevalue("torch_kernels")
    window, tubelets = 3, 14
    clip = torch.randn(tubelets, 2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    embeddings = []
    for dtype, int8 in ((torch.float32, False), (torch.bfloat16, True)):
        encoder = load_encoder("tiny", window).encoder.prepare(torch.device("cpu"), dtype, int8)
        ring = encoder.new_ring()
        embeddings.append(torch.stack([encoder.step([encoder.embed(t)], [ring])[0].newest.float() for t in clip]))
    exact, rounded = (e - embeddings[0].mean(dim=0) for e in embeddings)
    assert torch.cosine_similarity(exact, rounded).min() >= 0.99
