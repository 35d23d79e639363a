"""Choice of kernels: the fastest attention, linear layers and norms for a device and a precision, as measured.

torch's forms are in attention.py, linear.py and norm.py; amx.py has our own for x86 processors, and no other file than
this one knows of it. Nothing is tuned at run time: the measurements behind each choice are in docs/log.md.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from saccade_ros.encoder import amx
from saccade_ros.encoder.attention import Attention, FusedAttention, MatmulAttention
from saccade_ros.encoder.linear import Int8Linear, Linear, PackedLinear
from saccade_ros.encoder.merged_attention import MergedAttention
from saccade_ros.encoder.norm import ResidualNorm
from saccade_ros.encoder.rope import RotaryTables
from saccade_ros.encoder.spec import ModelSpec

Part = TypeVar("Part", bound=nn.Module)


def choose_attention(
    spec: ModelSpec,
    tables: RotaryTables,
    device: torch.device,
    dtype: torch.dtype,
    merges: bool = False,
    by_area: bool = False,
) -> Attention:
    """Choose the attention that is fastest for ViT-L at W=8.

    AMX processors: ours. A layer takes 2.1 ms in bf16 and 6.7 in fp32; torch's SDPA 3.6 and 11,
    and the keys' rotation.
    AVX-512 BF16 without AMX (AMD Zen 4 and 5): in bf16 plain products, 354 ms a step against 567 with SDPA.
    All else: SDPA. In fp32 it takes 9.6 ms a layer, plain products 33; in bf16 with AMX, where ours does not serve, 3.5
    and 4.8; on a GPU it is flash attention.

    Args:
        merges: layers merge tokens; ours have no sizes of keys, so torch's serve.
        by_area: some layers attend by area, which ours do not.
    """
    if merges:
        return MergedAttention(_torchs(spec, tables, device, dtype), spec, device)
    if device.type == "cpu" and not by_area and amx.AmxAttention.serves(spec, dtype):
        return amx.AmxAttention(spec, tables, dtype)
    return _torchs(spec, tables, device, dtype)


def _torchs(spec: ModelSpec, tables: RotaryTables, device: torch.device, dtype: torch.dtype) -> FusedAttention:
    without_amx = torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()
    if device.type == "cpu" and dtype == torch.bfloat16 and without_amx:
        return MatmulAttention(spec, tables, device, dtype)
    return FusedAttention(spec, tables, device, dtype)


def pack_linears(module: nn.Module, dtype: torch.dtype, rows: int, int8: bool = False) -> None:
    """Replace each Linear below `module` by the fastest form there is for it where it lies.

    Ours on AMX processors: ViT-L's linear layers take 72 ms a step in bf16, 370 in fp32 and 41 in int8; oneDNN's 92 and
    500 in the same runs. bf16 layers stay as they are where oneDNN would compute them with its slow reference.

    Args:
        dtype: of the layers' input and output.
        rows: of the inputs expected; oneDNN takes others too, slower.
        int8: weights and, inside, inputs in int8.
    """
    _replace(module, Linear, lambda linear: _packed(linear, dtype, rows, int8))


def prepare_norms(module: nn.Module, dtype: torch.dtype) -> None:
    """Prepare each ResidualNorm below `module` for outputs in `dtype`, in the fastest form where it lies.

    Ours on AVX-512 processors: sum and norm are one pass over memory, so that fp32 sums cost nothing.
    """
    _replace(module, ResidualNorm, lambda norm: _prepared(norm, dtype))


def describe() -> tuple[bool, str]:
    """Kernels on this machine's CPU, for people.

    Returns:
        False if the processor could run ours and they were not built, else True; and a sentence.
    """
    if amx.amx_available():
        return True, "attention and linear layers on AMX: fp32, bf16, int8"
    if amx.library() is not None or not torch.cpu._is_amx_tile_supported():
        return True, "torch's own; ours need AMX, which this processor or system lacks"
    return False, "ours for AMX were not built; torch's are used, which are slower"


def _replace(module: nn.Module, kind: type[Part], form: Callable[[Part], nn.Module]) -> None:
    """Replace every part of a kind below a module by a form of it."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, form(child))


def _packed(linear: Linear, dtype: torch.dtype, rows: int, int8: bool) -> nn.Module:
    on_cpu = linear.weight.device.type == "cpu"
    if on_cpu and amx.AmxLinear.serves(linear, dtype):
        return amx.AmxLinear(linear, dtype, int8)
    if int8:
        return Int8Linear(linear)
    bf16 = dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if on_cpu and torch.backends.mkldnn.is_available() and (bf16 or dtype == torch.float32):
        return PackedLinear(linear, dtype, rows)
    return linear


def _prepared(norm: ResidualNorm, dtype: torch.dtype) -> nn.Module:
    norm.prepare(dtype)
    if norm.weight.device.type == "cpu" and amx.Avx512Norm.serves(norm):
        return amx.Avx512Norm(norm)
    return norm
