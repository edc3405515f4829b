"""`ops.convolution.convolve` in one pass over the positions, compiled by numba."""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.array_types import Channels
from ssd4rec.ops.numba.rows import flat_rows, for_groups, sequence_groups
from ssd4rec.ops.numba.vectors import ALLOCATING, FAST, add_, add_product_, affine_to, copy_to, scaled_to, silu_backward_, silu_to
from ssd4rec.ops.segments import Layout


class Convolution(torch.autograd.Function):
    """The kernels with their gradients; only the inputs are saved."""

    @staticmethod
    def forward(
        ctx: Any,
        channels: Channels,
        weight: Tensor,
        bias: Tensor,
        layout: Layout,
        reverse: bool,  # noqa: FBT001 - apply takes no keywords
    ) -> Channels:
        ctx.save_for_backward(channels, weight, bias)
        ctx.layout, ctx.reverse = layout, reverse
        out = torch.empty(channels.shape)
        arrays = *flat_rows(channels), weight.T.flip(0).contiguous().numpy(), bias.numpy(), layout.cu_seqlens.numpy()
        result = out.numpy()
        for_groups(lambda group: _forward(*arrays, reverse, *group, result), sequence_groups(layout.cu_seqlens))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Channels) -> tuple[Tensor | None, ...]:
        channels, weight, bias = ctx.saved_tensors
        edges = ctx.layout.cu_seqlens
        groups = list(enumerate(sequence_groups(edges)))
        taps = weight.T.flip(0).contiguous()
        d_channels = torch.empty(channels.shape)
        d_taps, d_bias = torch.zeros(len(groups), *taps.shape), torch.zeros(len(groups), len(bias))
        arrays = *flat_rows(channels), taps.numpy(), bias.numpy(), edges.numpy()
        grads = d_out.contiguous().numpy(), d_channels.numpy()
        sums = d_taps.numpy(), d_bias.numpy()
        for_groups(lambda each: _backward(*arrays, ctx.reverse, *each[1], *grads, *(total[each[0]] for total in sums)), groups)
        return d_channels, d_taps.sum(0).flip(0).T, d_bias.sum(0), None, None


@njit(**FAST)
def _sum_at(total, rows, step, taps, bias, i, start, length, reverse):
    """Set the convolution before SiLU at the i-th position of the scan's direction."""
    channels = bias.shape[0]
    for k in range(min(i, taps.shape[0] - 1) + 1):
        t = start + (length - 1 - i + k if reverse else i - k)
        row = rows[t * step : t * step + channels]
        if k == 0:
            affine_to(total, bias, row, taps[0])
        else:
            add_product_(total, row, taps[k])


@njit(**ALLOCATING)
def _forward(rows, step, taps, bias, edges, reverse, first_sequence, last_sequence, out):
    total = np.empty(bias.shape[0], np.float32)
    _forward_sequences(rows, step, taps, bias, edges, reverse, first_sequence, last_sequence, out, total)


@njit(**FAST)
def _forward_sequences(rows, step, taps, bias, edges, reverse, first_sequence, last_sequence, out, total):
    for sequence in range(first_sequence, last_sequence):
        start, length = edges[sequence], edges[sequence + 1] - edges[sequence]
        for i in range(length):
            _sum_at(total, rows, step, taps, bias, i, start, length, reverse)
            silu_to(out[start + (length - 1 - i if reverse else i)], total)


@njit(**ALLOCATING)
def _backward(rows, step, taps, bias, edges, reverse, first_sequence, last_sequence, d_out, d_rows, d_taps, d_bias):
    total, d_totals = np.empty(bias.shape[0], np.float32), np.empty(taps.shape, np.float32)
    arrays = rows, step, taps, bias, edges, reverse, first_sequence, last_sequence, d_out, d_rows, d_taps, d_bias
    _backward_sequences(*arrays, total, d_totals)


@njit(**FAST)
def _backward_sequences(
    rows, step, taps, bias, edges, reverse, first_sequence, last_sequence, d_out, d_rows, d_taps, d_bias, total, d_totals
):
    channels, width = bias.shape[0], taps.shape[0]
    for sequence in range(first_sequence, last_sequence):
        start, length = edges[sequence], edges[sequence + 1] - edges[sequence]
        for i in range(length - 1, -1, -1):
            _sum_at(total, rows, step, taps, bias, i, start, length, reverse)
            t = start + (length - 1 - i if reverse else i)
            d_total = d_totals[i % width]
            copy_to(d_total, d_out[t])
            silu_backward_(d_total, total)
            add_(d_bias, d_total)
            for k in range(min(i, width - 1) + 1):  # the inputs of this position
                source = t + k if reverse else t - k
                add_product_(d_taps[k], d_total, rows[source * step : source * step + channels])
            scaled_to(d_rows[t], d_total, taps[0])
            for k in range(1, min(width - 1, length - 1 - i) + 1):  # the later positions that have this one as an input
                add_product_(d_rows[t], d_totals[(i + k) % width], taps[k])
