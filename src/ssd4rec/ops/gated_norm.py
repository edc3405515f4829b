"""RMSNorm of a gated input.

`gated_norm_reference` is the definition; `gated_norm` computes the same in blocks of rows.
`gated_norm` saves its inputs and one number per row for the backward pass; the definition saves five arrays of that size.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ssd4rec.array_types import Hidden
from ssd4rec.ops.blocks import blocks


def gated_norm_reference(y: Hidden, gate: Hidden, weight: Tensor, eps: float) -> Hidden:
    """Compute RMSNorm(y * SiLU(gate)) * weight with torch's own operations."""
    return F.rms_norm(y * F.silu(gate), weight.shape, weight, eps)


def gated_norm(y: Hidden, gate: Hidden, weight: Tensor, eps: float) -> Hidden:
    """Compute RMSNorm(y * SiLU(gate)) * weight; see `ops.dispatch.gated_norm` for the arguments."""
    return _GatedNorm.apply(y, gate, weight, eps)


class _GatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Hidden, gate: Hidden, weight: Tensor, eps: float) -> Hidden:
        dtype = torch.promote_types(torch.promote_types(y.dtype, gate.dtype), weight.dtype)
        out = y.new_empty(y.shape, dtype=dtype)
        inverse_rms = y.new_empty(y.shape[0], 1, dtype=dtype)
        for block in blocks(out):
            gated = torch.mul(y[block], F.silu(gate[block].to(dtype)), out=out[block])
            mean_square = torch.linalg.vector_norm(gated, dim=1, keepdim=True).square_().div_(gated.shape[1])
            torch.rsqrt(mean_square.add_(eps), out=inverse_rms[block])
            gated.mul_(inverse_rms[block]).mul_(weight)
        ctx.save_for_backward(y, gate, weight, inverse_rms)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Hidden) -> tuple[Tensor | None, ...]:
        y, gate, weight, inverse_rms = ctx.saved_tensors
        dtype = inverse_rms.dtype
        d_y, d_gate = (torch.empty_like(part, dtype=dtype, memory_format=torch.contiguous_format) for part in (y, gate))
        d_weight = torch.zeros_like(weight, dtype=dtype)
        for block in blocks(d_y):
            values, z = y[block].to(dtype), gate[block].to(dtype)
            silu = F.silu(z)
            normed = (values * silu).mul_(inverse_rms[block])
            buffer = torch.mul(d_out[block], normed)
            d_weight += buffer.sum(0)
            mean = buffer.mul_(weight).mean(1, keepdim=True)
            d_gated = torch.mul(d_out[block], weight, out=buffer).sub_(normed.mul_(mean)).mul_(inverse_rms[block])
            torch.mul(d_gated, silu, out=d_y[block])
            torch.ops.aten.silu_backward(d_gated.mul_(values), z, grad_input=d_gate[block])
        return d_y.to(y.dtype), d_gate.to(gate.dtype), d_weight.to(weight.dtype), None
