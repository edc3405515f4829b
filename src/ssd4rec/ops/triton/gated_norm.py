"""RMSNorm(y * SiLU(z)) * w as Triton kernels: one pass over the rows, in float32."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.array_types import Hidden
from ssd4rec.ops.triton.common import contiguous_rows

ELEMENTS = 4096  # of a row block; an estimate, not a measurement
BLOCKS_A_PROGRAM = 8  # row blocks whose dw is summed before it is stored


def gated_norm(y: Hidden, gate: Hidden, weight: Tensor, eps: float) -> Hidden:
    """Compute w v / sqrt(mean(v^2) + eps) with v = y SiLU(z), in the type of y; see `ops.dispatch.gated_norm`.

    Source: Dao and Gu 2024, section 7 (the norm after the gate); Zhang and Sennrich 2019, RMSNorm.
    """
    with torch.autocast(y.device.type, enabled=False), torch.cuda.device_of(y):
        return _GatedNorm.apply(y, gate, weight, eps)


@triton.jit(do_not_specialize=["count"])
def _forward(y, gate, weight, out, count, stride_y, stride_gate, E, eps, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    inside = (rows < count)[:, None] & (columns < E)[None, :]
    values = tl.load(y + rows[:, None] * stride_y + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    z = tl.load(gate + rows[:, None] * stride_gate + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    v = values * z * tl.sigmoid(z)
    scale = 1 / tl.sqrt(tl.sum(v * v, axis=1) / E + eps)
    w = tl.load(weight + columns, mask=columns < E, other=0.0).to(tl.float32)
    normed = v * scale[:, None] * w[None, :]
    tl.store(out + rows[:, None] * E + columns[None, :], normed.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["count"])
def _backward(
    y, gate, weight, grad, d_y, d_gate, d_weight, count, stride_y, stride_gate, E, eps,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    columns = tl.arange(0, COLUMNS)
    w = tl.load(weight + columns, mask=columns < E, other=0.0).to(tl.float32)
    dw = tl.zeros((COLUMNS,), dtype=tl.float32)
    for block in range(BLOCKS):
        rows = (tl.program_id(0).to(tl.int64) * BLOCKS + block) * ROWS + tl.arange(0, ROWS)
        inside = (rows < count)[:, None] & (columns < E)[None, :]
        values = tl.load(y + rows[:, None] * stride_y + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        z = tl.load(gate + rows[:, None] * stride_gate + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        g = tl.load(grad + rows[:, None] * E + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        sigmoid = tl.sigmoid(z)
        v = values * z * sigmoid
        scale = 1 / tl.sqrt(tl.sum(v * v, axis=1) / E + eps)
        normed = v * scale[:, None]
        dw += tl.sum(g * normed, axis=0)
        d_normed = g * w[None, :]
        d_v = (d_normed - normed * (tl.sum(d_normed * normed, axis=1) / E)[:, None]) * scale[:, None]
        at = rows[:, None] * E + columns[None, :]
        tl.store(d_y + at, (d_v * z * sigmoid).to(d_y.dtype.element_ty), mask=inside)
        d_z = d_v * values * sigmoid * (1 + z * (1 - sigmoid))
        tl.store(d_gate + at, d_z.to(d_gate.dtype.element_ty), mask=inside)
    tl.store(d_weight + tl.program_id(0).to(tl.int64) * E + columns, dw, mask=columns < E)


class _GatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, gate, weight = contiguous_rows(y), contiguous_rows(gate), weight.contiguous()
        count, width = y.shape
        out = torch.empty_like(y, memory_format=torch.contiguous_format)
        rows, columns = _block(width)
        grid = (triton.cdiv(count, rows),)
        _forward[grid](y, gate, weight, out, count, y.stride(0), gate.stride(0), width, eps, ROWS=rows, COLUMNS=columns)
        ctx.save_for_backward(y, gate, weight)
        ctx.eps = eps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, gate, weight = ctx.saved_tensors
        count, width = y.shape
        rows, columns = _block(width)
        programs = triton.cdiv(count, rows * BLOCKS_A_PROGRAM)
        d_y, d_gate = (torch.empty_like(values, memory_format=torch.contiguous_format) for values in (y, gate))
        d_weight = y.new_empty((programs, width), dtype=torch.float32)
        _backward[(programs,)](
            y, gate, weight, grad.contiguous(), d_y, d_gate, d_weight, count, y.stride(0), gate.stride(0), width, ctx.eps,
            ROWS=rows, COLUMNS=columns, BLOCKS=BLOCKS_A_PROGRAM,
        )  # fmt: skip
        return d_y, d_gate, d_weight.sum(0).to(weight.dtype), None


def _block(width: int) -> tuple[int, int]:
    columns = 1 << (width - 1).bit_length()
    return max(ELEMENTS // columns, 1), columns
