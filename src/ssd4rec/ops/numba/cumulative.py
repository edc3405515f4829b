"""`ops.cumulative.cumulative_sum`, exclusive and from the first position, compiled by numba."""

from typing import Any

import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.array_types import CuSeqlens
from ssd4rec.ops.numba.vectors import FAST


class CumulativeSum(torch.autograd.Function):
    """The sum over the positions before each one, [T, width], and its gradient, the sum over those after it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, cu_seqlens: CuSeqlens) -> Tensor:
        ctx.cu_seqlens = cu_seqlens
        out = torch.zeros(values.shape)
        _forward(values.contiguous().numpy(), cu_seqlens.numpy(), out.numpy())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        d_values = torch.zeros(grad.shape)
        _backward(grad.contiguous().numpy(), ctx.cu_seqlens.numpy(), d_values.numpy())
        return d_values, None


@njit(**FAST)
def _forward(values, edges, out):
    for sequence in range(len(edges) - 1):
        for t in range(edges[sequence] + 1, edges[sequence + 1]):
            for j in range(values.shape[1]):
                out[t, j] = out[t - 1, j] + values[t - 1, j]


@njit(**FAST)
def _backward(grad, edges, d_values):
    for sequence in range(len(edges) - 1):
        for t in range(edges[sequence + 1] - 1, edges[sequence], -1):
            for j in range(grad.shape[1]):
                d_values[t - 1, j] = d_values[t, j] + grad[t, j]
