"""`ops.dispatch.fading_sum` as the plain recurrence, compiled by numba."""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.array_types import CuSeqlens, Hidden
from ssd4rec.ops.numba.rows import for_groups, sequence_groups
from ssd4rec.ops.numba.vectors import FAST, copy_to, dot


class FadingSum(torch.autograd.Function):
    """The kernels with their gradients; the output is saved."""

    @staticmethod
    def forward(ctx: Any, values: Hidden, log_decay: Tensor, cu_seqlens: CuSeqlens) -> Hidden:
        values = values.contiguous()
        out, decay = torch.empty_like(values), np.float32(log_decay.exp().item())
        arrays = values.numpy(), decay, cu_seqlens.numpy(), out.numpy()
        for_groups(lambda group: _forward(*arrays, *group), sequence_groups(cu_seqlens))
        ctx.save_for_backward(out, log_decay)
        ctx.cu_seqlens = cu_seqlens
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        out, log_decay = ctx.saved_tensors
        groups = list(enumerate(sequence_groups(ctx.cu_seqlens)))
        d_values, decay = torch.empty_like(out), np.float32(log_decay.exp().item())
        d_decay = torch.zeros(len(groups), dtype=torch.float64)
        arrays = out.numpy(), decay, ctx.cu_seqlens.numpy(), grad.contiguous().numpy(), d_values.numpy()
        sums = d_decay.numpy()
        for_groups(lambda each: _backward(*arrays, sums[each[0] : each[0] + 1], *each[1]), groups)
        return d_values, (d_decay.sum() * float(decay)).to(log_decay.dtype).view(1), None


@njit(**FAST)
def _forward(values, decay, edges, out, first, last):
    for sequence in range(first, last):
        start = edges[sequence]
        copy_to(out[start], values[start])
        for t in range(start + 1, edges[sequence + 1]):
            for j in range(values.shape[1]):
                out[t, j] = decay * out[t - 1, j] + values[t, j]


@njit(**FAST)
def _backward(out, decay, edges, grad, d_values, d_decay, first, last):
    for sequence in range(first, last):
        start, end = edges[sequence], edges[sequence + 1] - 1
        copy_to(d_values[end], grad[end])
        for t in range(end, start, -1):
            d_decay[0] += dot(d_values[t], out[t - 1])
            for j in range(grad.shape[1]):
                d_values[t - 1, j] = grad[t - 1, j] + decay * d_values[t, j]
