"""The SSD scan, compiled by numba: the walk over the chunks of a sequence, with all intermediate values in the cache.

With the cumulative log decay a_i within a chunk, for each head

    y_i = sum_{j <= i} exp(a_i - a_j) dt_j (C_i . B_j) x_j   +   exp(a_i) C_i state   +   D x_i

as in `ops.ssd.chunked`. No exponent is positive, so nothing can overflow and no chunk is split further. The gradients are those
of `ops.ssd.chunked` too; only the inputs, y and the state after each chunk are saved. A short sequence is one chunk without a
state.
"""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.array_types import Rates, StateInputs, StateReads, StepSizes, Values
from ssd4rec.ops.numba.products import ADD, SET, product, transpose_to
from ssd4rec.ops.numba.rows import flat_rows, for_groups, sequence_groups
from ssd4rec.ops.numba.simd import LANES, add_at, empty, exp, filled, load, prefetch, store, total
from ssd4rec.ops.numba.vectors import ALLOCATING, FAST, ONE, ZERO
from ssd4rec.ops.segments import Layout

Q = 32  # positions per chunk


class Scan(torch.autograd.Function):
    """The kernels with their gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Values,
        dt: StepSizes,
        A: Rates,
        B: StateInputs,
        C: StateReads,
        D: Rates,
        layout: Layout,
        reverse: bool,  # noqa: FBT001 - apply takes no keywords
    ) -> Values:
        ctx.layout, ctx.reverse = layout, reverse
        dt, A, D = dt.contiguous(), A.contiguous(), D.contiguous()
        first_state = torch.zeros_like(layout.cu_seqlens)  # of each sequence: those after its chunks, but not after the last one
        torch.cumsum((layout.cu_seqlens.diff() - 1).div(Q, rounding_mode="floor"), 0, out=first_state[1:])
        y = torch.empty(len(x), x[0].numel())
        states = torch.empty(int(first_state[-1]) * B.shape[1] * y.shape[1])
        arrays = _arrays(x, dt, A, B, C, D), layout.cu_seqlens.numpy(), first_state.numpy(), reverse
        for_groups(
            lambda group: _forward(*arrays, *group, y.numpy(), states.numpy(), B.shape[1]), sequence_groups(layout.cu_seqlens)
        )
        ctx.save_for_backward(x, dt, A, B, C, D, first_state, y, states)
        return y.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Values) -> tuple[Tensor | None, ...]:
        *inputs, first_state, y, states = ctx.saved_tensors
        x, dt, A, B, _, D = inputs
        edges = ctx.layout.cu_seqlens
        groups = list(enumerate(sequence_groups(edges)))
        dy = grad.reshape(y.shape).contiguous()
        # one matrix, so that the gradient of a split into x, B and C needs no copy: `ops.gather.split_columns`
        d_columns, d_dt = torch.empty(len(y), y.shape[1] + 2 * B.shape[1]), torch.empty(dt.shape)
        dA, dD = (torch.zeros(len(groups), *each.shape) for each in (A, D))
        arrays = _arrays(*inputs), edges.numpy(), first_state.numpy(), ctx.reverse
        saved, grads = (y.numpy(), states.numpy(), B.shape[1]), tuple(each.numpy() for each in (dy, d_columns, d_dt))
        sums = dA.numpy(), dD.numpy()
        for_groups(lambda each: _backward(*arrays, *each[1], *saved, *grads, *(total[each[0]] for total in sums)), groups)
        dx, dB, dC = d_columns.split([y.shape[1], B.shape[1], B.shape[1]], dim=1)
        return dx.unflatten(1, x.shape[1:]), d_dt, dA.sum(0), dB, dC, dD.sum(0), None, None


def _arrays(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> tuple[Any, ...]:
    matrices = [flat_rows(each) for each in (x.flatten(1), B, C)]
    return *(number for pair in matrices for number in pair), dt.numpy(), A.numpy(), D.numpy()


@njit(**FAST)
def _decays(decays, dt, A, first, step, count):
    """Set steps, cumulative log decays, and the decays from the entry and to the exit of a chunk [4, H, Q]."""
    steps, sums, entering, leaving = decays
    for h in range(A.shape[0]):
        total_decay = ZERO
        for i in range(count):
            steps[h, i] = dt[first + step * i, h]
            total_decay += steps[h, i] * A[h]
            sums[h, i] = total_decay
        for i in range(h * Q, h * Q + count, LANES):
            store(entering, i, exp(load(sums, i)))
            store(leaving, i, exp(total_decay - load(sums, i)))


@njit(**FAST)
def _scale_heads_to(out, start, x, x_start, inner, factors, i):
    """Set a row of out to a row of x, with the P columns of each head multiplied by its factor at position i."""
    size = inner // factors.shape[0]
    for h in range(factors.shape[0]):
        for v in range(h * size, (h + 1) * size, LANES):
            store(out, start + v, load(x, x_start + v) * factors[h, i])


@njit(**FAST)
def _products_of_projections(G, transposed, B, B_first, B_step, C, C_first, C_step, state_dim, count):
    """Set G_ij = C_i . B_j for j <= i, and more in the last vector of a row. [Q, Q]."""
    transpose_to(transposed, Q, B, B_first, B_step, count, state_dim)
    for i in range(0, count, LANES):
        rows = min(LANES, count - i)
        product(G, i * Q, Q, C, C_first + i * C_step, C_step, 1, transposed, 0, Q, rows, i + LANES, state_dim, SET)


@njit(**FAST)
def _fill_triangle(triangle):
    """Set the rows of a lower triangle of ones [LANES, LANES]."""
    for i in range(LANES):
        for j in range(LANES):
            triangle[i * LANES + j] = ONE if j <= i else ZERO


@njit(**FAST)
def _decay(sums, h, i, j, triangle):
    """Return exp(a_i - a_j) for a vector of positions j, and 0 for j > i."""
    here = sums[h, i]
    decay = exp(here - load(sums, h * Q + j)) + (here - here)  # or not a number, which exp would hide
    return decay * load(triangle, i % LANES * LANES) if i - j < LANES else decay


@njit(**ALLOCATING)
def _forward(arrays, edges, first_state, reverse, first_sequence, last_sequence, y, states, state_dim):
    heads, inner = arrays[-1].shape[0], y.shape[1]
    scratch = empty(Q * Q), empty(Q * Q), empty(state_dim * Q), empty(Q * inner), empty(LANES * LANES)
    _fill_triangle(scratch[-1])
    decays = np.zeros((4, heads, Q), np.float32)
    flat_y = y.reshape(-1)
    for sequence in range(first_sequence, last_sequence):
        place = edges[sequence], edges[sequence + 1], first_state[sequence]
        _forward_sequence(arrays, place, reverse, flat_y, inner, states, state_dim, scratch, decays)


@njit(**FAST)
def _forward_sequence(arrays, place, reverse, y, inner, states, state_dim, scratch, decays):
    x, x_row, B, B_row, C, C_row, dt, A, D = arrays
    G, weights, transposed, scaled, triangle = scratch
    steps, sums, entering, leaving = decays
    start, end, after = place
    heads, one = A.shape[0], -1 if reverse else 1
    size, area, x_step, y_step = inner // heads, state_dim * inner, one * x_row, one * inner
    for begin in range(0, end - start, Q):
        count = min(Q, end - start - begin)
        first = end - 1 - begin if reverse else start + begin
        x_first, y_first, B_first, C_first = first * x_row, first * inner, first * B_row, first * C_row
        before, state = (after + begin // Q - 1) * area, (after + begin // Q) * area
        _decays(decays, dt, A, first, one, count)
        _products_of_projections(G, transposed, B, B_first, one * B_row, C, C_first, one * C_row, state_dim, count)
        if begin:
            product(y, y_first, y_step, C, C_first, one * C_row, 1, states, before, inner, count, inner, state_dim, SET)
            for i in range(count):
                _scale_heads_to(y, y_first + i * y_step, y, y_first + i * y_step, inner, entering, i)
        for h in range(heads):
            for i in range(count):
                prefetch(x, x_first + (i + Q) * x_step + h * size)  # of the next chunk
                prefetch(y, y_first + (i + Q) * y_step + h * size)
                for j in range(0, i + 1, LANES):
                    store(weights, i * Q + j, _decay(sums, h, i, j, triangle) * load(G, i * Q + j) * load(steps, h * Q + j))
                weights[i * Q + i] += D[h]
            for i in range(0, count, LANES):
                rows, to = min(LANES, count - i), y_first + i * y_step + h * size
                reach = min(count, i + LANES)
                product(y, to, y_step, weights, i * Q, Q, 1, x, x_first + h * size, x_step, rows, size, reach, begin > 0)
        if start + begin + Q < end:
            for h in range(heads):
                for i in range(count):
                    factor = leaving[h, i] * steps[h, i]
                    for v in range(h * size, (h + 1) * size, LANES):
                        store(scaled, i * inner + v, load(x, x_first + i * x_step + v) * factor)
            if begin:
                for n in range(state_dim):
                    _scale_heads_to(states, state + n * inner, states, before + n * inner, inner, entering, count - 1)
            product(states, state, inner, B, B_first, 1, one * B_row, scaled, 0, inner, state_dim, inner, count, begin > 0)


@njit(**ALLOCATING)
def _backward(
    arrays, edges, first_state, reverse, first_sequence, last_sequence, y, states, state_dim, dy, d_columns, d_dt, dA, dD
):
    heads, inner = arrays[-1].shape[0], y.shape[1]
    square_parts = empty(Q * Q), empty(Q * Q), empty(Q * Q), empty(Q * Q)
    row_parts = empty(Q * inner), empty(Q * inner), empty(Q * inner)
    areas = empty(state_dim * inner), empty(state_dim * inner)
    scratch = square_parts, empty(state_dim * Q), row_parts, *areas, empty(LANES * LANES)
    _fill_triangle(scratch[-1])
    decays, da = np.zeros((4, heads, Q), np.float32), np.zeros((heads, Q), np.float32)
    flat = y.reshape(-1), dy.reshape(-1), d_columns.reshape(-1)
    for sequence in range(first_sequence, last_sequence):
        place = edges[sequence], edges[sequence + 1], first_state[sequence]
        _backward_sequence(arrays, place, reverse, flat, inner, states, state_dim, d_dt, dA, dD, scratch, decays, da)


@njit(**FAST)
def _backward_sequence(arrays, place, reverse, flat, inner, states, state_dim, d_dt, dA, dD, scratch, decays, da):
    x, x_row, B, B_row, C, C_row, dt, A, D = arrays
    y, dy, grads = flat
    (G, weights, d_weights, d_G), transposed, (x_transposed, scaled, passed), turned, d_state, triangle = scratch
    steps, sums, entering, leaving = decays
    start, end, after = place
    heads, one = A.shape[0], -1 if reverse else 1
    size, area, x_step, y_step = inner // heads, state_dim * inner, one * x_row, one * inner
    B_step, C_step, width = one * B_row, one * C_row, inner + 2 * state_dim
    to_B, to_C, step = inner, inner + state_dim, one * width  # columns and rows of the gradients
    for begin in range((end - start - 1) // Q * Q, -1, -Q):
        count = min(Q, end - start - begin)
        first = end - 1 - begin if reverse else start + begin
        x_first, y_first, B_first, C_first = first * x_row, first * inner, first * B_row, first * C_row
        to, before, state = first * width, (after + begin // Q - 1) * area, (after + begin // Q) * area
        leaves = start + begin + Q < end
        _decays(decays, dt, A, first, one, count)
        _products_of_projections(G, transposed, B, B_first, B_step, C, C_first, C_step, state_dim, count)
        transpose_to(x_transposed, Q, x, x_first, x_step, count, inner)
        d_G[:] = ZERO
        for h in range(heads):
            for i in range(0, count, LANES):
                rows, of = min(LANES, count - i), y_first + i * y_step + h * size
                product(
                    d_weights, i * Q, Q, dy, of, y_step, 1, x_transposed, h * size * Q, Q, rows, i + LANES, size, SET
                )  # fmt: skip
            for i in range(count):
                prefetch(x, x_first + (i - Q) * x_step + h * size)  # of the next chunk
                prefetch(y, y_first + (i - Q) * y_step + h * size)
                prefetch(dy, y_first + (i - Q) * y_step + h * size)
                prefetch(grads, to + (i - Q) * step + h * size)
                for j in range(0, i + 1, LANES):
                    decay, cell = _decay(sums, h, i, j, triangle), i * Q + j
                    add_at(d_G, cell, load(d_weights, cell) * decay * load(steps, h * Q + j))
                    store(weights, cell, decay * load(G, cell))
            for j in range(0, count, LANES):  # the gradient of u = dt x, from the positions i >= j
                rows, at = min(LANES, count - j), y_first + j * y_step + h * size
                out = to + j * step + h * size
                product(grads, out, step, weights, j * Q + j, 1, Q, dy, at, y_step, rows, size, count - j, SET)
        for i in range(0, count, LANES):
            rows, at, reach = min(LANES, count - i), to + i * step, min(count, i + LANES)
            product(grads, at + to_C, step, d_G, i * Q, Q, 1, B, B_first, B_step, rows, state_dim, reach, SET)
            of = C_first + i * C_step
            product(grads, at + to_B, step, d_G, i * Q + i, 1, Q, C, of, C_step, rows, state_dim, count - i, SET)
        if leaves:
            product(passed, 0, inner, B, B_first, B_step, 1, d_state, 0, inner, count, inner, state_dim, SET)
            for i in range(count):
                for h in range(heads):
                    factor = leaving[h, i] * steps[h, i]
                    for v in range(h * size, (h + 1) * size, LANES):
                        store(scaled, i * inner + v, load(x, x_first + i * x_step + v) * factor)
                        add_at(grads, to + i * step + v, load(passed, i * inner + v) * leaving[h, i])
            transpose_to(turned, state_dim, d_state, 0, inner, state_dim, inner)
            product(grads, to + to_B, step, scaled, 0, inner, 1, turned, 0, state_dim, count, state_dim, inner, ADD)
        for h in range(heads):
            skipped = filled(ZERO)
            for i in range(count):
                to_u, to_a = filled(ZERO), filled(ZERO)
                for v in range(h * size, (h + 1) * size, LANES):
                    at, out = y_first + i * y_step + v, to + i * step + v
                    values, grad, d_u = load(x, x_first + i * x_step + v), load(dy, at), load(grads, out)
                    to_u += d_u * values
                    to_a += grad * (load(y, at) - values * D[h]) - d_u * values * steps[h, i]
                    skipped += grad * values
                    store(grads, out, d_u * steps[h, i] + grad * D[h])
                d_dt[first + one * i, h] = total(to_u)
                da[h, i] = total(to_a)
            dD[h] += total(skipped)
            if leaves:
                carried = filled(ZERO)
                for n in range(state_dim):
                    for v in range(n * inner + h * size, n * inner + (h + 1) * size, LANES):
                        carried += load(d_state, v) * load(states, state + v)
                da[h, count - 1] += total(carried)
            d_log_decay = ZERO
            for i in range(count - 1, -1, -1):
                d_log_decay += da[h, i]
                d_dt[first + one * i, h] += d_log_decay * A[h]
                dA[h] += d_log_decay * steps[h, i]
        if begin:
            for i in range(count):
                _scale_heads_to(scaled, i * inner, dy, y_first + i * y_step, inner, entering, i)
            transpose_to(turned, state_dim, states, before, inner, state_dim, inner)
            product(grads, to + to_C, step, scaled, 0, inner, 1, turned, 0, state_dim, count, state_dim, inner, ADD)
            if leaves:
                for n in range(state_dim):
                    _scale_heads_to(d_state, n * inner, d_state, n * inner, inner, entering, count - 1)
            product(d_state, 0, inner, C, C_first, 1, C_step, scaled, 0, inner, state_dim, inner, count, leaves)
