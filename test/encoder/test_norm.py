"""The residual norm: torch's, and ours on AVX-512, or on a stand-in for it that computes at the same addresses."""

import ctypes
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade_ros.encoder import amx
from saccade_ros.encoder.amx import Avx512Norm
from saccade_ros.encoder.kernels import prepare_norms
from saccade_ros.encoder.norm import ResidualNorm

N, D = 5, 32
needs_avx512 = pytest.mark.skipif(
    not Avx512Norm.serves(ResidualNorm(D)), reason="needs a processor with AVX-512 and the kernels colcon builds"
)


def stand_in(dtype: torch.dtype):
    """A function of the library's signature (native/norm.cpp)."""

    def at(address: int, shape: tuple[int, ...], of: torch.dtype) -> Tensor:
        nbytes = torch.Size(shape).numel() * of.itemsize
        return torch.frombuffer((ctypes.c_byte * nbytes).from_address(address), dtype=of).view(shape)

    def add_norm(threads, rows, width, eps, residual, update, weight, bias, out):
        x = at(residual, (rows, width), torch.float32)
        if update is not None:
            x += at(update, (rows, width), dtype)
        of_channels = (at(weight, (width,), torch.float32), at(bias, (width,), torch.float32))
        at(out, (rows, width), dtype).copy_(F.layer_norm(x, (width,), *of_channels, eps))

    return ctypes.CFUNCTYPE(None, *[ctypes.c_int] * 3, ctypes.c_float, *[ctypes.c_void_p] * 5)(add_norm)


@pytest.fixture(params=[pytest.param("AVX-512", marks=needs_avx512), "stand-in"])
def ours(request, monkeypatch) -> None:
    if request.param == "stand-in":
        library = SimpleNamespace(
            saccade_norm_available=lambda: 1,
            saccade_add_norm_bf16=stand_in(torch.bfloat16),
            saccade_add_norm_fp32=stand_in(torch.float32),
        )
        monkeypatch.setattr(amx, "library", lambda: library)


def norms(width: int = D) -> nn.Sequential:
    """A norm of random weights, in a module to prepare."""
    norm = ResidualNorm(width, eps=1e-6)
    generator = torch.Generator().manual_seed(0)
    norm.load_state_dict({name: torch.randn(width, generator=generator) for name in ("weight", "bias")})
    return nn.Sequential(norm)


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, N, 33])
def test_ours_adds_and_normalises_as_torch_does(rows, dtype):
    plain, module = norms()[0], norms()
    plain.prepare(dtype)
    prepare_norms(module, dtype)
    assert type(module[0]) is Avx512Norm
    assert module[0].dtype == dtype
    for update in (torch.randn(rows, D).to(dtype), None):
        residual = torch.randn(rows, D)
        expected_residual = residual.clone()
        expected = plain(expected_residual, update)
        normalised = module[0](residual, update)
        assert normalised.dtype == dtype
        torch.testing.assert_close(residual, expected_residual, rtol=0, atol=0)
        torch.testing.assert_close(normalised, expected)


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize(("width", "dtype"), [(40, torch.float32), (D, torch.float16)], ids=["width", "precision"])
def test_what_does_not_fit_is_left_to_torch(width, dtype):
    module = norms(width)
    prepare_norms(module, dtype)
    assert type(module[0]) is ResidualNorm
    assert module[0](torch.randn(N, width)).dtype == dtype


def test_weights_stay_in_fp32_whatever_the_model_is_moved_to():
    module = norms().to(torch.bfloat16)
    prepare_norms(module, torch.bfloat16)
    assert module[0].weight.dtype == torch.float32
