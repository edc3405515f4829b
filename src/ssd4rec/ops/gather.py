"""Gather and sum rows of a packed batch, with gradients summed in a fixed order and without atomics.

The backward pass of `values[index]` sorts the index or adds in an arbitrary order.
`torch.segment_reduce` takes 11 to 35 times as long on a CPU as `embedding_bag` for the same sums.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ssd4rec.array_types import CuSeqlens, Hidden, States
from ssd4rec.ops.segments import Layout


def linear_map(values: Tensor, compute: Callable[[Tensor], Tensor], transpose: Callable[[Tensor], Tensor]) -> Tensor:
    """Return compute(values), whose gradient is transpose(gradient of the result); no tensor is saved."""
    return _LinearMap.apply(values, compute, transpose)


class _LinearMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, compute: Callable[[Tensor], Tensor], transpose: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.transpose = transpose
        return compute(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.transpose(grad), None, None


def reverse_sequences(values: Hidden, layout: Layout) -> Hidden:
    """Reverse each sequence in place. [T, width] -> [T, width]."""
    index = layout.reversed_index

    def reverse(rows: Tensor) -> Tensor:
        return rows.index_select(0, index)

    return linear_map(values, reverse, reverse)


def broadcast_first(values: Hidden, layout: Layout) -> Hidden:
    """Replace each row by the first row of its sequence. [T, width] -> [T, width]."""

    def transpose(grad: Tensor) -> Tensor:
        wide = grad.to(torch.promote_types(grad.dtype, torch.float32)).contiguous()  # do not sum in half precision
        gradient = torch.zeros_like(grad)
        gradient[layout.cu_seqlens[:-1]] = _segment_sum(wide, layout.cu_seqlens).to(grad.dtype)
        return gradient

    return linear_map(values, lambda rows: rows.index_select(0, layout.seq_start), transpose)


def sum_sequences(values: Hidden, layout: Layout) -> States:
    """Sum the rows of each sequence. [T, width] -> [B, width]."""
    return linear_map(
        values, lambda rows: _segment_sum(rows, layout.cu_seqlens), lambda grad: grad.index_select(0, layout.seq_idx)
    )


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


def split_columns(values: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Split a matrix into adjacent columns. Gradients that are adjacent columns of one matrix are joined without a copy."""
    return _SplitColumns.apply(values, *sizes)


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


def _segment_sum(values: Tensor, cu_seqlens: CuSeqlens) -> Tensor:
    rows = torch.arange(len(values), device=values.device)
    return F.embedding_bag(rows, values, cu_seqlens, mode="sum", include_last_offset=True)
