"""Rows of a packed row taken from elsewhere in it, with gradients that are gathered in a fixed order and without atomics.

torch's own `values[index]` sorts the index in its backward pass, or adds in any order.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.ops.segments import Layout
from ssd4rec.shapes import Hidden


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
        boundaries = ctx.layout.boundaries
        wide = grad.to(torch.promote_types(grad.dtype, torch.float32)).contiguous()  # sums are not made in half precision
        total = torch.segment_reduce(wide, "sum", lengths=boundaries.diff(), axis=0, unsafe=True)
        gradient = torch.zeros_like(grad)
        gradient[boundaries[:-1]] = total.to(grad.dtype)
        return gradient, None
