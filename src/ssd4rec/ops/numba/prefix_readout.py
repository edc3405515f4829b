"""`ops.ssd.prefix_readout` in one pass over the positions, compiled by numba.

A position is read once: its channels enter the K partial convolutions of the positions before it, whose sums are in the first
level of the cache. In PyTorch the same takes many passes over arrays of that size.
"""

from typing import Any

import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.ops.numba.rows import flat_rows, for_groups, sequence_groups
from ssd4rec.ops.numba.simd import AHEAD, LANES, add_at, empty, filled, load, prefetch, sigmoid, silu_slope, store, total
from ssd4rec.ops.numba.vectors import ALLOCATING, FAST, ZERO
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
        y = torch.zeros(len(channels), channels.shape[1] - 2 * state_dim)
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
        d_channels, d_dt = torch.empty(channels.shape), torch.empty_like(decayed_dt)
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


@njit(**FAST)
def _input(rows, step, taps, t, k, v):
    """Return what position t + k adds to the convolution at position t."""
    return load(rows, (t + k) * step + v) * load(taps, k * taps.shape[1] + v)


@njit(**FAST)
def _first_to(first, first_value, rows, step, taps, bias, start, ends):
    """Set the convolution at the first position of a sequence, before and after SiLU, for each end of the prefix [K, width]."""
    for v in range(0, taps.shape[1], LANES):
        x = load(bias, v)
        for j in range(ends):
            x += _input(rows, step, taps, start, j, v)
            store(first, j * taps.shape[1] + v, x)
            store(first_value, j * taps.shape[1] + v, x * sigmoid(x))


@njit(**ALLOCATING)
def _forward(rows, step, taps, bias, decayed_dt, D, edges, state_dim, first_sequence, last_sequence, y):
    width, total_width = taps.shape
    area = width * total_width
    scratch = empty(area), empty(area), empty(total_width - 2 * state_dim), empty(width * LANES), empty(width)
    _forward_sequences(rows, step, taps, bias, decayed_dt, D, edges, state_dim, first_sequence, last_sequence, y, scratch)


@njit(**FAST)
def _forward_sequences(rows, step, taps, bias, decayed_dt, D, edges, state_dim, first_sequence, last_sequence, y, scratch):
    width, total_width = taps.shape
    lag, inner = width - 1, total_width - 2 * state_dim
    used = inner + state_dim  # of C, only the first position's is used
    size = inner // D.shape[0]
    first, first_value, complete, products, CB = scratch
    for sequence in range(first_sequence, last_sequence):
        start = edges[sequence]
        length = edges[sequence + 1] - start
        _first_to(first, first_value, rows, step, taps, bias, start, min(width, length))
        complete[:] = ZERO
        for i in range(length):
            s, terms, end = start + i, min(lag, length - 1 - i) + 1, min(i, lag) * total_width
            products[:] = ZERO
            for n in range(0, state_dim, LANES):
                prefetch(rows, (s + width + AHEAD) * step + inner + n)
                x = load(bias, inner + n)
                for k in range(terms):
                    x += _input(rows, step, taps, s, k, inner + n)
                    C = load(first_value, min(i + k, lag) * total_width + used + n)
                    add_at(products, k * LANES, C * (x * sigmoid(x)))
            for k in range(terms):
                CB[k] = total(load(products, k * LANES))
            for h in range(D.shape[0]):
                for v in range(h * size, (h + 1) * size, LANES):
                    prefetch(rows, (s + width + AHEAD) * step + v)
                    prefetch(y, (s + width + AHEAD) * inner + v)
                    x, out = load(bias, v), load(first_value, end + v) * D[h]
                    for k in range(terms):
                        x += _input(rows, step, taps, s, k, v)
                        term = x * sigmoid(x) * (decayed_dt[s, h] * CB[k])
                        if k == lag:
                            term += load(complete, v)
                            store(complete, v, term)
                        add_at(y, (s + k) * inner + v, out + term)
                        out = filled(ZERO)


@njit(**ALLOCATING)
def _backward(
    rows, step, taps, bias, decayed_dt, D, edges, state_dim, first_sequence, last_sequence, dy, d_rows, d_dt, d_taps, d_bias, d_D
):
    width, total_width = taps.shape
    inner = total_width - 2 * state_dim
    area, state_area, vectors = width * total_width, width * state_dim, width * LANES
    firsts, of_states = (empty(area), empty(area), empty(area), empty(inner)), (empty(state_area), empty(state_area))
    scratch = *firsts, *of_states, empty(vectors), empty(vectors), empty(width)
    arrays = rows, step, taps, bias, decayed_dt, D, edges, state_dim, first_sequence, last_sequence
    _backward_sequences(*arrays, dy, d_rows, d_dt, d_taps, d_bias, d_D, scratch)


@njit(**FAST)
def _add_gradients(rows, step, taps, t, k, v, d_sum, d_rows, d_taps):
    """Add the gradients of the input `_input` and of its weight."""
    total_width = taps.shape[1]
    add_at(d_rows, (t + k) * total_width + v, d_sum * load(taps, k * total_width + v))
    add_at(d_taps, k * total_width + v, d_sum * load(rows, (t + k) * step + v))


@njit(**FAST)
def _backward_sequences(
    rows, step, taps, bias, decayed_dt, D, edges, state_dim, first_sequence, last_sequence, dy, d_rows, d_dt, d_taps, d_bias, d_D,
    scratch,
):  # fmt: skip
    width, total_width = taps.shape
    lag, inner = width - 1, total_width - 2 * state_dim
    used = inner + state_dim
    size = inner // D.shape[0]
    first, first_value, d_first, d_complete, values, slopes, products, parts, CB = scratch
    for sequence in range(first_sequence, last_sequence):
        start = edges[sequence]
        length = edges[sequence + 1] - start
        reach = min(lag, length - 1)
        _first_to(first, first_value, rows, step, taps, bias, start, reach + 1)
        d_first[:] = ZERO
        d_complete[:] = ZERO
        for i in range(length - 1, -1, -1):
            s, terms = start + i, min(lag, length - 1 - i) + 1
            end = min(i, lag) * total_width
            for v in range(0, inner, LANES):
                add_at(d_first, end + v, load(dy, s * inner + v))
                if i + lag < length:
                    add_at(d_complete, v, load(dy, (s + lag) * inner + v))
            products[:] = ZERO
            for n in range(0, state_dim, LANES):
                x = load(bias, inner + n)
                for k in range(terms):
                    x += _input(rows, step, taps, s, k, inner + n)
                    chance, place = sigmoid(x), k * state_dim + n
                    store(values, place, x * chance)
                    store(slopes, place, silu_slope(x, chance))
                    C = load(first_value, min(i + k, lag) * total_width + used + n)
                    add_at(products, k * LANES, C * (x * chance))
            for k in range(terms):
                CB[k] = total(load(products, k * LANES))
            products[:] = ZERO  # now of the gradients of CB
            for h in range(D.shape[0]):
                d_decayed_dt = filled(ZERO)
                for v in range(h * size, (h + 1) * size, LANES):
                    x = load(bias, v)
                    prefetch(rows, (s - AHEAD) * step + v)
                    prefetch(dy, (s - AHEAD) * inner + v)
                    prefetch(d_rows, (s - AHEAD) * total_width + v)
                    for k in range(terms):
                        x += _input(rows, step, taps, s, k, v)
                        chance = sigmoid(x)
                        grad = load(d_complete, v) if k == lag else load(dy, (s + k) * inner + v)
                        d_weight = grad * (x * chance)
                        d_decayed_dt += d_weight * CB[k]
                        add_at(products, k * LANES, d_weight * decayed_dt[s, h])
                        store(parts, k * LANES, grad * silu_slope(x, chance) * (decayed_dt[s, h] * CB[k]))
                    d_sum = filled(ZERO)
                    store(d_rows, s * total_width + v, d_sum)
                    for k in range(terms - 1, -1, -1):
                        d_sum += load(parts, k * LANES)
                        _add_gradients(rows, step, taps, s, k, v, d_sum, d_rows, d_taps)
                    add_at(d_bias, v, d_sum)
                d_dt[s, h] = total(d_decayed_dt)
            for k in range(terms):
                CB[k] = total(load(products, k * LANES))  # its gradient
            for n in range(0, state_dim, LANES):
                d_sum = filled(ZERO)
                prefetch(rows, (s - AHEAD) * step + inner + n)
                prefetch(d_rows, (s - AHEAD) * total_width + inner + n)
                store(d_rows, s * total_width + inner + n, d_sum)
                store(d_rows, s * total_width + used + n, d_sum)
                for k in range(terms - 1, -1, -1):
                    end, place = min(i + k, lag) * total_width + used + n, k * state_dim + n
                    add_at(d_first, end, load(values, place) * CB[k])
                    d_sum += load(first_value, end) * load(slopes, place) * CB[k]
                    _add_gradients(rows, step, taps, s, k, inner + n, d_sum, d_rows, d_taps)
                add_at(d_bias, inner + n, d_sum)
        for v in range(0, total_width, LANES):
            d_sum, h = filled(ZERO), v // size
            for j in range(reach, -1, -1):
                x, grad = load(first, j * total_width + v), load(d_first, j * total_width + v)
                if v < inner:
                    d_D[h] += total(grad * load(first_value, j * total_width + v))
                    grad = grad * D[h]
                d_sum += grad * silu_slope(x, sigmoid(x))
                _add_gradients(rows, step, taps, start, j, v, d_sum, d_rows, d_taps)
            add_at(d_bias, v, d_sum)
