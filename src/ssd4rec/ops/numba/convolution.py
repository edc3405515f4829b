"""`ops.convolution.convolve` in one pass over the positions, compiled by numba."""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.array_types import Channels
from ssd4rec.ops.numba.rows import flat_rows, for_groups, sequence_groups
from ssd4rec.ops.numba.simd import AHEAD, LANES, add_at, empty, load, prefetch, sigmoid, silu_slope, store
from ssd4rec.ops.numba.vectors import ALLOCATING, FAST
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
def _sum_at(rows, step, taps, bias, t, one, count, v):
    """Return the convolution before SiLU at position t, from `count` inputs; `one` is the direction of the scan."""
    result = load(bias, v)
    for k in range(count):
        result += load(rows, (t - one * k) * step + v) * load(taps, k * bias.shape[0] + v)
    return result


@njit(**FAST)
def _forward(rows, step, taps, bias, edges, reverse, first_sequence, last_sequence, out):
    channels, width, one = bias.shape[0], taps.shape[0], -1 if reverse else 1
    for sequence in range(first_sequence, last_sequence):
        start, length = edges[sequence], edges[sequence + 1] - edges[sequence]
        for i in range(length):
            t = start + (length - 1 - i if reverse else i)
            for v in range(0, channels, LANES):
                prefetch(rows, (t + one * AHEAD) * step + v)
                prefetch(out, (t + one * AHEAD) * channels + v)
                x = _sum_at(rows, step, taps, bias, t, one, min(i + 1, width), v)
                store(out, t * channels + v, x * sigmoid(x))


@njit(**ALLOCATING)
def _backward(rows, step, taps, bias, edges, reverse, first_sequence, last_sequence, d_out, d_rows, d_taps, d_bias):
    arrays = rows, step, taps, bias, edges, reverse, first_sequence, last_sequence, d_out, d_rows, d_taps, d_bias
    _backward_sequences(*arrays, empty(taps.size), np.empty(taps.shape[0], np.int64))


@njit(**FAST)
def _backward_sequences(
    rows, step, taps, bias, edges, reverse, first_sequence, last_sequence, d_out, d_rows, d_taps, d_bias, d_totals, places
):
    channels, width, one = bias.shape[0], taps.shape[0], -1 if reverse else 1
    for sequence in range(first_sequence, last_sequence):
        start, length = edges[sequence], edges[sequence + 1] - edges[sequence]
        for i in range(length - 1, -1, -1):
            t = start + (length - 1 - i if reverse else i)
            inputs, readers = min(i + 1, width), min(width, length - i)
            for k in range(readers):
                places[k] = (i + k) % width * channels
            for v in range(0, channels, LANES):
                prefetch(rows, (t - one * (width + AHEAD)) * step + v)
                prefetch(d_out, (t - one * AHEAD) * channels + v)
                prefetch(d_rows, (t - one * AHEAD) * channels + v)
                x = _sum_at(rows, step, taps, bias, t, one, inputs, v)
                d_total = load(d_out, t * channels + v) * silu_slope(x, sigmoid(x))
                store(d_totals, places[0] + v, d_total)
                add_at(d_bias, v, d_total)
                for k in range(inputs):
                    add_at(d_taps, k * channels + v, d_total * load(rows, (t - one * k) * step + v))
                d_row = d_total * load(taps, v)
                for k in range(1, readers):  # the later positions that have this one as an input
                    d_row += load(d_totals, places[k] + v) * load(taps, k * channels + v)
                store(d_rows, t * channels + v, d_row)
