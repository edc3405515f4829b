"""RMSNorm of values behind a gate: `definition` says what it is, `gated_norm` is the same block by block.

The fast form saves its inputs and one number a row; torch's composition saves five rows' worth of them.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ssd4rec.array_types import Hidden
from ssd4rec.ops.blocks import blocks


def definition(y: Hidden, gate: Hidden, weight: Tensor, eps: float) -> Hidden:
    """RMSNorm(y SiLU(gate)) weight, as torch's own operations."""
    normed: Hidden = F.rms_norm(y * F.silu(gate), weight.shape, weight, eps)
    return normed


def gated_norm(y: Hidden, gate: Hidden, weight: Tensor, eps: float) -> Hidden:
    """RMSNorm(y SiLU(gate)) weight.

    Args:
        y: [rows, E].
        gate: [rows, E], z.
        weight: [E].
        eps: of the norm.
    """
    out: Hidden = _GatedNorm.apply(y, gate, weight, eps)  # type: ignore[no-untyped-call]  # torch has no types here
    return out


class _GatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Hidden, gate: Hidden, weight: Tensor, eps: float) -> Hidden:
        kind = torch.promote_types(torch.promote_types(y.dtype, gate.dtype), weight.dtype)
        out = y.new_empty(y.shape, dtype=kind)
        inverse = y.new_empty(y.shape[0], 1, dtype=kind)  # 1 / root mean square
        for block in blocks(out):
            held = torch.mul(y[block], F.silu(gate[block].to(kind)), out=out[block])
            squares = torch.linalg.vector_norm(held, dim=1, keepdim=True).square_().div_(held.shape[1])
            torch.rsqrt(squares.add_(eps), out=inverse[block])
            held.mul_(inverse[block]).mul_(weight)
        ctx.save_for_backward(y, gate, weight, inverse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Hidden) -> tuple[Tensor | None, ...]:
        y, gate, weight, inverse = ctx.saved_tensors
        d_y, d_gate = (torch.empty_like(part, dtype=inverse.dtype, memory_format=torch.contiguous_format) for part in (y, gate))
        d_weight = torch.zeros_like(weight, dtype=inverse.dtype)
        for block in blocks(d_y):
            values, opened = y[block].to(inverse.dtype), gate[block].to(inverse.dtype)
            silu = F.silu(opened)
            normed = (values * silu).mul_(inverse[block])
            spare = torch.mul(d_out[block], normed)
            d_weight += spare.sum(0)
            mean = spare.mul_(weight).mean(1, keepdim=True)
            d_held = torch.mul(d_out[block], weight, out=spare).sub_(normed.mul_(mean)).mul_(inverse[block])
            torch.mul(d_held, silu, out=d_y[block])
            torch.ops.aten.silu_backward(d_held.mul_(values), opened, grad_input=d_gate[block])
        return d_y.to(y.dtype), d_gate.to(gate.dtype), d_weight.to(weight.dtype), None
