"""`ops.ssd.prefix_readout` in one pass over the positions, compiled by numba.

A position is read once: its channels enter the K partial convolutions of the positions before it, whose sums are in the first
level of the cache. In PyTorch the same takes many passes over arrays of that size.
"""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.ops.numba.rows import flat_rows, for_groups, sequence_groups
from ssd4rec.ops.numba.vectors import (
    ALLOCATING,
    FAST,
    add_,
    add_product_,
    add_scaled_,
    affine_to,
    copy_to,
    dot,
    silu_backward_,
    silu_to,
)
from ssd4rec.ops.segments import Layout


class BackwardPrefixReadout(torch.autograd.Function):
    """The kernels with their gradients; see `ops.ssd.prefix_readout` for the formula."""

    @staticmethod
    def forward(
        ctx: Any, channels: Tensor, weight: Tensor, bias: Tensor, decayed_dt: Tensor, D: Tensor, layout: Layout, state_dim: int
    ) -> Tensor:
        decayed_dt = decayed_dt.contiguous()
        ctx.save_for_backward(channels, weight, bias, decayed_dt, D)
        ctx.layout, ctx.state_dim = layout, state_dim
        rows, step = flat_rows(channels)
        taps = weight.T.flip(0).contiguous().numpy()
        y = torch.empty(len(channels), channels.shape[1] - 2 * state_dim)
        arrays = rows, step, taps, bias.numpy(), decayed_dt.numpy(), D.numpy(), layout.cu_seqlens.numpy(), state_dim
        out = y.numpy()
        for_groups(lambda group: _forward(*arrays, *group, out), sequence_groups(layout.cu_seqlens))
        return y.view(*decayed_dt.shape, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        channels, weight, bias, decayed_dt, D = ctx.saved_tensors
        rows, step = flat_rows(channels)
        taps = weight.T.flip(0).contiguous().numpy()
        edges = ctx.layout.cu_seqlens
        groups = sequence_groups(edges)
        d_channels, d_dt = torch.zeros(channels.shape), torch.zeros_like(decayed_dt)
        d_taps = torch.zeros(len(groups), *taps.shape)
        d_bias, d_D = torch.zeros(len(groups), len(bias)), torch.zeros(len(groups), len(D))
        arrays = rows, step, taps, bias.numpy(), decayed_dt.numpy(), D.numpy(), edges.numpy(), ctx.state_dim
        dy = grad.reshape(len(channels), -1).contiguous().numpy()
        shared = d_channels.numpy(), d_dt.numpy()
        sums = d_taps.numpy(), d_bias.numpy(), d_D.numpy()
        numbered = list(enumerate(groups))
        for_groups(lambda each: _backward(*arrays, *each[1], dy, *shared, *(total[each[0]] for total in sums)), numbered)
        d_weight = d_taps.sum(0).flip(0).T
        return d_channels, d_weight, d_bias.sum(0), d_dt, d_D.sum(0), None, None


@njit(**ALLOCATING)
def _forward(rows, step, taps, bias, decayed_dt, D, edges, state_dim, first_sequence, last_sequence, y):
    width, total = taps.shape
    inner = total - 2 * state_dim
    used = inner + state_dim
    sums, value = np.empty((width, used), np.float32), np.empty(used, np.float32)
    first, first_value = np.empty(total, np.float32), np.empty(total, np.float32)
    scratch = sums, value, first, first_value, np.empty(inner, np.float32)
    _forward_sequences(rows, step, taps, bias, decayed_dt, D, edges, state_dim, first_sequence, last_sequence, y, scratch)


@njit(**FAST)
def _forward_sequences(rows, step, taps, bias, decayed_dt, D, edges, state_dim, first_sequence, last_sequence, y, scratch):
    width, total = taps.shape
    lag, inner = width - 1, total - 2 * state_dim
    used, heads = inner + state_dim, D.shape[0]  # of C, only the first position's is used
    size = inner // heads
    sums, value, first, first_value, complete = scratch
    for sequence in range(first_sequence, last_sequence):
        start = edges[sequence]
        complete[:] = 0
        for i in range(edges[sequence + 1] - start):
            t = start + i
            row = rows[t * step : t * step + total]
            out = y[t]
            if i == 0:
                affine_to(first, bias, row, taps[0])
            elif i <= lag:
                add_product_(first, row, taps[i])
            if i <= lag:
                silu_to(first_value, first)
            C = first_value[total - state_dim :]
            for h in range(heads):
                for p in range(h * size, (h + 1) * size):
                    out[p] = first_value[p] * D[h]
            for k in range(min(i, lag) + 1):
                partial = sums[(i - k) % width]
                if k == 0:
                    affine_to(partial, bias[:used], row[:used], taps[0, :used])
                else:
                    add_product_(partial, row[:used], taps[k, :used])
                silu_to(value, partial)
                CB = dot(C, value[inner:])
                into = complete if k == lag else out
                for h in range(heads):
                    add_scaled_(into[h * size : (h + 1) * size], value[h * size : (h + 1) * size], decayed_dt[t - k, h] * CB)
            add_(out, complete)


@njit(**ALLOCATING)
def _backward(
    rows, step, taps, bias, decayed_dt, D, edges, state_dim, first_sequence, last_sequence, dy, d_rows, d_dt, d_taps, d_bias, d_D
):
    width, total = taps.shape
    inner = total - 2 * state_dim
    used = inner + state_dim
    sums, values = np.empty((width, used), np.float32), np.empty(used, np.float32)
    first, first_value = np.empty((width, total), np.float32), np.empty((width, total), np.float32)
    d_first_C, d_first_x = np.empty((width, state_dim), np.float32), np.empty((width, inner), np.float32)
    d_complete, d_value, d_sum = np.empty(inner, np.float32), np.empty(used, np.float32), np.empty(used, np.float32)
    d_first, d_total = np.empty(total, np.float32), np.empty(total, np.float32)
    scratch = sums, values, first, first_value, d_first_C, d_first_x, d_complete, d_value, d_sum, d_first, d_total
    arrays = rows, step, taps, bias, decayed_dt, D, edges, state_dim, first_sequence, last_sequence
    _backward_sequences(*arrays, dy, d_rows, d_dt, d_taps, d_bias, d_D, scratch)


@njit(**FAST)
def _backward_sequences(
    rows, step, taps, bias, decayed_dt, D, edges, state_dim, first_sequence, last_sequence, dy, d_rows, d_dt, d_taps, d_bias, d_D,
    scratch,
):  # fmt: skip
    width, total = taps.shape
    lag, inner = width - 1, total - 2 * state_dim
    used, heads = inner + state_dim, D.shape[0]
    size = inner // heads
    sums, values, first, first_value, d_first_C, d_first_x, d_complete, d_value, d_sum, d_first, d_total = scratch
    for sequence in range(first_sequence, last_sequence):
        start = edges[sequence]
        length = edges[sequence + 1] - start
        reach = min(lag, length - 1)
        for j in range(reach + 1):
            row = rows[(start + j) * step : (start + j) * step + total]
            if j == 0:
                affine_to(first[0], bias, row, taps[0])
            else:
                affine_to(first[j], first[j - 1], row, taps[j])
            silu_to(first_value[j], first[j])
        d_first_C[:] = 0
        d_first_x[:] = 0
        d_complete[:] = 0
        for i in range(length - 1, -1, -1):
            s = start + i
            terms = min(lag, length - 1 - i)
            add_(d_first_x[min(i, lag)], dy[s])
            if i + lag < length:
                add_(d_complete, dy[s + lag])
            for k in range(terms + 1):
                row = rows[(s + k) * step : (s + k) * step + used]
                if k == 0:
                    affine_to(sums[0], bias[:used], row, taps[0, :used])
                else:
                    affine_to(sums[k], sums[k - 1], row, taps[k, :used])
            d_sum[:] = 0
            for k in range(terms, -1, -1):
                silu_to(values, sums[k])
                end = min(i + k, lag)
                C = first_value[end, total - state_dim :]
                CB = dot(C, values[inner:])
                grad = d_complete if k == lag else dy[s + k]
                d_CB = np.float32(0.0)
                for h in range(heads):
                    part = slice(h * size, (h + 1) * size)
                    d_weight = dot(grad[part], values[part])
                    d_dt[s, h] += d_weight * CB
                    d_CB += d_weight * decayed_dt[s, h]
                    scale = decayed_dt[s, h] * CB
                    for p in range(h * size, (h + 1) * size):
                        d_value[p] = grad[p] * scale
                for n in range(state_dim):
                    d_value[inner + n] = C[n] * d_CB
                add_scaled_(d_first_C[end], values[inner:], d_CB)
                silu_backward_(d_value, sums[k])
                add_(d_sum, d_value)
                row = rows[(s + k) * step : (s + k) * step + used]
                add_product_(d_rows[s + k, :used], d_sum, taps[k, :used])
                add_product_(d_taps[k, :used], d_sum, row)
            add_(d_bias[:used], d_sum)
        d_total[:] = 0
        for j in range(reach, -1, -1):
            for h in range(heads):
                part = slice(h * size, (h + 1) * size)
                d_D[h] += dot(d_first_x[j, part], first_value[j, part])
                for p in range(h * size, (h + 1) * size):
                    d_first[p] = d_first_x[j, p] * D[h]
            d_first[inner:used] = 0
            copy_to(d_first[used:], d_first_C[j])
            silu_backward_(d_first, first[j])
            add_(d_total, d_first)
            row = rows[(start + j) * step : (start + j) * step + total]
            add_product_(d_rows[start + j], d_total, taps[j])
            add_product_(d_taps[j], d_total, row)
        add_(d_bias, d_total)
