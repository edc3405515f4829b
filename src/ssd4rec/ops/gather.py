"""Gather and sum rows of a packed batch, with gradients summed in a fixed order and without atomics.

The backward pass of `values[index]` sorts the index or adds in an arbitrary order.
`torch.segment_reduce` takes 11 to 35 times as long on a CPU as `embedding_bag` for the same sums.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ssd4rec.array_types import CuSeqlens, Hidden, States
from ssd4rec.ops.segments import Layout


def reverse_sequences(values: Hidden, layout: Layout) -> Hidden:
    """Reverse each sequence in place. [T, width] -> [T, width]."""
    return _ReverseSequences.apply(values, layout.reversed_index)


def broadcast_first(values: Hidden, layout: Layout) -> Hidden:
    """Replace each row by the first row of its sequence. [T, width] -> [T, width]."""
    return _BroadcastFirst.apply(values, layout)


def split_columns(values: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Split a matrix into adjacent columns. Gradients that are adjacent columns of one matrix are joined without a copy."""
    return _SplitColumns.apply(values, *sizes)


def sum_sequences(values: Hidden, layout: Layout) -> States:
    """Sum the rows of each sequence. [T, width] -> [B, width]."""
    return _SumSequences.apply(values, layout)


def sum_sequences_from(values: Tensor, layout: Layout, position: int) -> Tensor:
    """Sum the rows of each sequence from a 0-based position on, without autograd. [T, width] -> [B, width]."""
    starts, ends = layout.cu_seqlens[:-1], layout.cu_seqlens[1:]
    edges = torch.stack([starts, torch.minimum(starts + position, ends)], dim=1).flatten()
    return _segment_sum(values, torch.cat([edges, layout.cu_seqlens[-1:]]))[1::2]


def shift_rows(values: Tensor, rows: int) -> Tensor:
    """Shift [T, width] down by a number of rows (negative: up), across sequences, and fill with zeros."""
    if not rows:
        return values
    distance = min(abs(rows), len(values))
    zeros = values.new_zeros(distance, values.shape[1])
    return torch.cat([zeros, values[:-distance]] if rows > 0 else [values[distance:], zeros])


class _SplitColumns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, *sizes: int) -> tuple[Tensor, ...]:
        ctx.sizes = sizes
        return tuple(values.split(sizes, dim=1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        first, rows, width = grads[0], len(grads[0]), sum(ctx.sizes)
        if first.untyped_storage().nbytes() == rows * width * first.element_size():
            matrix = first.as_strided((rows, width), (width, 1), 0)
            parts = zip(matrix.split(ctx.sizes, dim=1), grads, strict=True)
            if all(part.data_ptr() == grad.data_ptr() and part.stride() == grad.stride() for part, grad in parts):
                return matrix, *[None] * len(grads)
        return torch.cat(grads, dim=1), *[None] * len(grads)


class _ReverseSequences(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor) -> Tensor:
        ctx.index = index
        return values.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.index_select(0, ctx.index), None  # reversal is its own inverse


class _BroadcastFirst(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        return values.index_select(0, layout.seq_start)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        cu_seqlens = ctx.layout.cu_seqlens
        wide = grad.to(torch.promote_types(grad.dtype, torch.float32)).contiguous()  # do not sum in half precision
        gradient = torch.zeros_like(grad)
        gradient[cu_seqlens[:-1]] = _segment_sum(wide, cu_seqlens).to(grad.dtype)
        return gradient, None


class _SumSequences(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, layout: Layout) -> Tensor:
        ctx.seq_idx = layout.seq_idx
        return _segment_sum(values, layout.cu_seqlens)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.index_select(0, ctx.seq_idx), None


def _segment_sum(values: Tensor, cu_seqlens: CuSeqlens) -> Tensor:
    rows = torch.arange(len(values), device=values.device)
    return F.embedding_bag(rows, values, cu_seqlens, mode="sum", include_last_offset=True)
