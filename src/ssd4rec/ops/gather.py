"""Rows of a packed row taken from elsewhere in it, or summed; gradients are gathered in a fixed order and without atomics.

torch's own `values[index]` sorts the index in its backward pass, or adds in any order; its `segment_reduce` goes down one column
after the other, which takes 11 to 35 times as long on a CPU as the sum of rows that `embedding_bag` is (docs/log.md).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ssd4rec.array_types import CuSeqlens, Hidden, States
from ssd4rec.ops.segments import Layout


def mirrored(values: Hidden, layout: Layout) -> Hidden:
    """Each history reversed in its own place.

    Args:
        values: [T, width].
        layout: of the row.
    """
    out: Hidden = _Mirrored.apply(values, layout.mirror)  # type: ignore[no-untyped-call]  # torch has no types here
    return out


def of_first(values: Hidden, layout: Layout) -> Hidden:
    """Row t: the row of the first event of t's history.

    Args:
        values: [T, width].
        layout: of the row.
    """
    out: Hidden = _OfFirst.apply(values, layout)  # type: ignore[no-untyped-call]  # torch has no types here
    return out


def sum_of_history(values: Hidden, layout: Layout) -> States:
    """Row b: the sum of the rows of history b.

    Args:
        values: [T, width].
        layout: of the row.
    """
    out: States = _SumOfHistory.apply(values, layout)  # type: ignore[no-untyped-call]  # torch has no types here
    return out


def earlier(values: Tensor, rows: int) -> Tensor:
    """Row t: row t - rows, of whichever history; zeros where the packed row has none. Negative: rows further on.

    Args:
        values: [T, width].
        rows: how many.
    """
    if not rows:
        return values
    away = min(abs(rows), len(values))
    none = values.new_zeros(away, values.shape[1])
    return torch.cat([none, values[:-away]] if rows > 0 else [values[away:], none])


class _Mirrored(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, mirror: Tensor) -> Tensor:
        ctx.mirror = mirror
        return values.index_select(0, mirror)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.index_select(0, ctx.mirror), None  # mirrored twice is not mirrored


class _OfFirst(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        return values.index_select(0, layout.first)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        cu_seqlens = ctx.layout.cu_seqlens
        wide = grad.to(torch.promote_types(grad.dtype, torch.float32)).contiguous()  # sums are not made in half precision
        gradient = torch.zeros_like(grad)
        gradient[cu_seqlens[:-1]] = _summed(wide, cu_seqlens).to(grad.dtype)
        return gradient, None


class _SumOfHistory(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, layout: Layout) -> Tensor:
        ctx.history = layout.history
        return _summed(values, layout.cu_seqlens)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.index_select(0, ctx.history), None


def summed_from(values: Tensor, layout: Layout, place: int) -> Tensor:
    """Row b: the sum of the rows of history b from a 0-based place in it on; no gradient. [T, width] -> [B, width]."""
    starts, ends = layout.cu_seqlens[:-1], layout.cu_seqlens[1:]
    edges = torch.stack([starts, torch.minimum(starts + place, ends)], dim=1).flatten()
    return _summed(values, torch.cat([edges, layout.cu_seqlens[-1:]]))[1::2]


def _summed(values: Tensor, cu_seqlens: CuSeqlens) -> Tensor:
    rows = torch.arange(len(values), device=values.device)
    total: Tensor = F.embedding_bag(rows, values, cu_seqlens, mode="sum", include_last_offset=True)
    return total
