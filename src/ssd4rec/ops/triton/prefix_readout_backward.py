"""Backward kernels of `backward_prefix_readout`: gradients of x, of B, and of C (of the first position of a sequence only).

Row t of the channels is tap j of the convolution at source position t - j in every prefix that ends at least j positions after
the source. The gradient of a row gathers these terms, so nothing is scattered. `d_partials` holds for each program the gradients
of the weights (rows 0 … K-1: column j of `weight`) and of the bias (row K); the caller sums over programs.
"""

import triton
import triton.language as tl

from ssd4rec.ops.triton.common import expand_heads, head_tile, load_positions, sum_heads
from ssd4rec.ops.triton.prefix_readout_forward import (
    block_positions,
    convolved_at,
    load_bias,
    load_decayed_dt,
    load_rows_at,
    load_tap,
    silu,
    silu_derivative,
)
from ssd4rec.ops.triton.segment_sums import load_offsets, sum_mask


@triton.jit
def store_partials(pointer, partials, program, columns, limit, channels, K: tl.constexpr):
    """Store [next_power_of_2(K + 1), columns] in the rows of a program; `pointer` and `columns` start at the same channel."""
    taps = tl.arange(0, triton.next_power_of_2(K + 1))
    at = (program * (K + 1) + taps[:, None]) * channels + columns[None, :]
    tl.store(pointer + at, partials, mask=(taps <= K)[:, None] & (columns < limit)[None, :])


@triton.jit
def partial_sum(row, values, K: tl.constexpr):
    """Return [next_power_of_2(K + 1), columns] with values summed over positions in one row and zeros elsewhere."""
    taps = tl.arange(0, triton.next_power_of_2(K + 1))
    return tl.where((taps == row)[:, None], tl.sum(values, axis=0)[None, :], 0.0)


@triton.jit(do_not_specialize=["T"])
def gradient_totals(grad, seq_starts, seq_ends, totals, T, width, COLUMNS: tl.constexpr, K: tl.constexpr, Q: tl.constexpr):
    """Store totals [blocks, width] of dy at K-1 positions later, of the sequence that continues from the previous block."""
    tiles = tl.cdiv(width, COLUMNS)
    block = tl.program_id(0) // tiles
    columns = (tl.program_id(0) % tiles) * COLUMNS + tl.arange(0, COLUMNS)
    start, rows, _, first, last = block_positions(seq_starts, seq_ends, block, T, Q)
    continued = (first < 0) & (rows + (K - 1) <= last)
    total = tl.sum(load_rows_at(grad + start * width, rows + (K - 1), continued, columns, width, width), axis=0)
    tl.store(totals + block.to(tl.int64) * width + columns, total, mask=columns < width)


@triton.jit
def later_gradients(dy, offsets, block, rows, first, last, columns, E, K: tl.constexpr, Q: tl.constexpr):
    """Return [Q, columns]: the sum of dy over the prefixes that end at least K-1 positions after each row."""
    later = load_rows_at(dy, rows + (K - 1), rows + (K - 1) <= last, columns, E, E)
    later = tl.dot(sum_mask(first, True, True, Q), later, input_precision="tf32x3")
    return later + load_offsets(offsets, block, last >= Q, columns, E, E)


@triton.jit(do_not_specialize=["T"])
def decayed_dt_backward(
    values, weight, bias, dt, decay, cb, grad, offsets, seq_starts, seq_ends, d_decayed_dt, d_cb, dD, totals,
    T, stride, stride_dt, H, width, HG: tl.constexpr, P: tl.constexpr, K: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """Store the gradients of the factors: d_decayed_dt [T, H], and d_cb [tiles, T, K] and dD [blocks, H] to be summed.

    Totals [blocks, width >= H]: d_decayed_dt * decayed_dt of the sequence that continues from the previous block.
    """
    block, tile, heads, columns = head_tile(H, HG, P)
    block = block.to(tl.int64)
    E = H * P
    start, rows, in_bounds, first, last = block_positions(seq_starts, seq_ends, block, T, Q)
    block_values, dy, cb_rows = values + start * stride, grad + start * E, cb + start * K
    later_dy = later_gradients(dy, offsets, block, rows, first, last, columns, E, K, Q)
    decayed_dt = load_decayed_dt(dt + start * stride_dt, decay + start * H, rows, in_bounds, heads, H, stride_dt)
    d_dt_rows = tl.zeros((Q, HG), dtype=tl.float32)
    d_skip = tl.zeros((Q, HG), dtype=tl.float32)
    for k in range(K):
        valid = rows + k <= last
        d_term = tl.where(
            (valid & (k == K - 1))[:, None], later_dy, load_rows_at(dy, rows + k, valid & (k < K - 1), columns, E, E)
        )
        total = convolved_at(block_values, weight, bias, rows, first, tl.minimum(rows + k, last), columns, E, stride, K)
        d_weights = sum_heads(d_term * silu(total), Q, HG, P)
        d_dt_rows += d_weights * tl.load(cb_rows + rows * K + k, mask=valid, other=0.0)[:, None]
        d_skip += d_weights
        at = (tile.to(tl.int64) * T + start) * K + rows * K + k
        tl.store(d_cb + at, tl.sum(d_weights * decayed_dt, axis=1), mask=in_bounds)
    mask = in_bounds[:, None] & (heads < H)[None, :]
    tl.store(d_decayed_dt + start * H + rows[:, None] * H + heads[None, :], d_dt_rows, mask=mask)
    continued = ((first < 0) & (last >= 0))[:, None]
    total = tl.sum(tl.where(continued, d_dt_rows * decayed_dt, 0.0), axis=0)
    tl.store(totals + block * width + heads, total, mask=heads < H)
    d_skip = tl.sum(tl.where((rows == first)[:, None], d_skip, 0.0), axis=0)
    tl.store(dD + block * H + heads, d_skip, mask=heads < H)


@triton.jit(do_not_specialize=["T"])
def x_backward(
    values, weight, bias, dt, decay, cb, D, grad, offsets, seq_starts, seq_ends, d_values, d_partials,
    T, stride, stride_dt, H, channels, HG: tl.constexpr, P: tl.constexpr, K: tl.constexpr, Q: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Store the gradients of x: d_values [T, channels] and d_partials."""
    program, _tile, heads, columns = head_tile(H, HG, P)
    program = program.to(tl.int64)
    E = H * P
    inside = columns < E
    skip = tl.load(D + columns // P, mask=inside, other=0.0)[None, :]
    partials = tl.zeros((triton.next_power_of_2(K + 1), HG * P), dtype=tl.float32)
    for i in range(BLOCKS):
        block = program * BLOCKS + i
        start, rows, in_bounds, first, last = block_positions(seq_starts, seq_ends, block, T, Q)
        block_values, dy, cb_rows = values + start * stride, grad + start * E, cb + start * K
        steps, decays = dt + start * stride_dt, decay + start * H
        x_rows = load_rows_at(block_values, rows, in_bounds, columns, E, stride)
        later_dy = later_gradients(dy, offsets, block, rows, first, last, columns, E, K, Q)
        d_row = tl.zeros((Q, HG * P), dtype=tl.float32)
        for j in range(K):  # not unrolled: a quarter of the code
            source = rows - j
            has_term = (source >= first) & (source + (K - 1) <= last) & (j > 0)
            later_dy += load_rows_at(dy, source + (K - 1), has_term, columns, E, E)
            decayed_dt = load_decayed_dt(steps, decays, source, (source >= first) & (source <= last), heads, H, stride_dt)
            skip_rows = tl.where((source == first)[:, None], skip, 0.0)
            total = load_bias(bias, columns, E)
            d_sum = tl.zeros((Q, HG * P), dtype=tl.float32)
            for k in tl.static_range(K):
                valid = (source >= first) & (source + k <= last)
                total = total + load_tap(weight, columns, E, k, K) * load_rows_at(
                    block_values, source + k, valid, columns, E, stride
                )
                uses_tap = valid & (k >= j)
                if k == K - 1:
                    d_term = tl.where(uses_tap[:, None], later_dy, 0.0)
                else:
                    d_term = load_rows_at(dy, source + k, uses_tap, columns, E, E)
                cb_k = tl.load(cb_rows + source * K + k, mask=uses_tap, other=0.0)[:, None]
                d_sum += d_term * (expand_heads(decayed_dt * cb_k, Q, HG, P) + skip_rows) * silu_derivative(total)
            tap = tl.load(weight + columns * K + (K - 1 - j), mask=inside, other=0.0).to(tl.float32)
            d_row += tap[None, :] * d_sum
            partials += partial_sum(K - 1 - j, d_sum * x_rows, K) + tl.where(j == 0, partial_sum(K, d_sum, K), 0.0)
        mask = in_bounds[:, None] & inside[None, :]
        at = rows[:, None] * channels + columns[None, :]
        tl.store(d_values + start * channels + at, d_row.to(d_values.dtype.element_ty), mask=mask)
    store_partials(d_partials, partials, program, columns, E, channels, K)


@triton.jit(do_not_specialize=["T", "B"])
def B_backward(
    values, weight, bias, first_C, d_cb, seq_starts, seq_ends, seq_idx, d_values, d_partials, d_first_C, totals,
    T, B, stride, offset, channels, totals_column, width,
    K: tl.constexpr, N: tl.constexpr, COLUMNS: tl.constexpr, Q: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Store the gradients of B (d_values, d_partials) and of C at the first position (d_first_C [K, B, N]).

    For the complete convolution, K - 1, d_first_C holds only the sum over the block of the first position.
    Totals [blocks, width], from column totals_column on: that sum for the sequence that continues from the previous block.
    """
    tiles = tl.cdiv(N, COLUMNS)
    program = (tl.program_id(0) // tiles).to(tl.int64)
    columns = (tl.program_id(0) % tiles) * COLUMNS + tl.arange(0, COLUMNS)
    partials = tl.zeros((triton.next_power_of_2(K + 1), COLUMNS), dtype=tl.float32)
    for i in range(BLOCKS):
        block = program * BLOCKS + i
        start, rows, in_bounds, first, last = block_positions(seq_starts, seq_ends, block, T, Q)
        block_values, d_cb_rows = values + start * stride + offset, d_cb + start * K
        seq = tl.load(seq_idx + start + rows, mask=in_bounds, other=0)
        position = rows - first
        B_rows = load_rows_at(block_values, rows, in_bounds, columns, N, stride)
        d_row = tl.zeros((Q, COLUMNS), dtype=tl.float32)
        d_C = tl.zeros((Q, COLUMNS), dtype=tl.float32)  # of C in the prefix that ends at each row
        for j in range(K):
            source = rows - j
            total = load_bias(bias + offset, columns, N)
            d_sum = tl.zeros((Q, COLUMNS), dtype=tl.float32)
            for k in tl.static_range(K):
                valid = (source >= first) & (source + k <= last)
                tap = load_tap(weight + offset * K, columns, N, k, K)
                total = total + tap * load_rows_at(block_values, source + k, valid, columns, N, stride)
                d = tl.load(d_cb_rows + source * K + k, mask=valid & (k >= j), other=0.0)[:, None]
                row = tl.minimum(position - j + k, K - 1) * B + seq
                d_sum += d * load_rows_at(first_C, row, valid & (k >= j), columns, N, N) * silu_derivative(total)
                d_C += tl.where(k == j, d * silu(total), 0.0)
            tap = tl.load(weight + offset * K + columns * K + (K - 1 - j), mask=columns < N, other=0.0).to(tl.float32)
            d_row += tap[None, :] * d_sum
            partials += partial_sum(K - 1 - j, d_sum * B_rows, K) + tl.where(j == 0, partial_sum(K, d_sum, K), 0.0)
        mask = in_bounds[:, None] & (columns < N)[None, :]
        at = rows[:, None] * channels + columns[None, :]
        tl.store(d_values + start * channels + offset + at, d_row.to(d_values.dtype.element_ty), mask=mask)
        incomplete = tl.where(in_bounds, position, K - 1) < K - 1
        at = (tl.where(incomplete, position, 0) * B + seq)[:, None] * N + columns[None, :]
        tl.store(d_first_C + at, d_C, mask=mask & incomplete[:, None])
        complete = tl.where(incomplete[:, None], 0.0, d_C)
        complete_sum = tl.dot(sum_mask(first, True, True, Q), complete, input_precision="tf32x3")
        at = ((K - 1) * B.to(tl.int64) + seq)[:, None] * N + columns[None, :]
        tl.store(d_first_C + at, complete_sum, mask=mask & (position == 0)[:, None])
        continued = ((first < 0) & (last >= 0))[:, None]
        total = tl.sum(tl.where(continued, complete, 0.0), axis=0)
        tl.store(totals + block * width + totals_column + columns, total, mask=(columns < N) & (start < T))
    store_partials(d_partials + offset, partials, program, columns, N, channels, K)


@triton.jit(do_not_specialize=["T", "B"])
def C_backward(
    values, weight, bias, d_first_C, offsets, seq_starts, seq_ends, seq_idx, d_values, d_partials,
    T, B, stride, offset, channels, offsets_column, width,
    K: tl.constexpr, N: tl.constexpr, COLUMNS: tl.constexpr, Q: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Store the gradients of C: d_values and d_partials; only the first K positions of a sequence contribute to C_1."""
    tiles = tl.cdiv(N, COLUMNS)
    program = (tl.program_id(0) // tiles).to(tl.int64)
    columns = (tl.program_id(0) % tiles) * COLUMNS + tl.arange(0, COLUMNS)
    partials = tl.zeros((triton.next_power_of_2(K + 1), COLUMNS), dtype=tl.float32)
    for i in range(BLOCKS):
        block = program * BLOCKS + i
        rows, first, last = load_positions(seq_starts, seq_ends, block, T, Q)
        position = rows - first
        is_used = (rows < T) & (position < K)
        seq = tl.load(seq_idx + rows, mask=is_used, other=0)
        C_rows = load_rows_at(values + offset, rows, is_used, columns, N, stride)
        d_sum = tl.zeros((Q, COLUMNS), dtype=tl.float32)
        total = load_bias(bias + offset, columns, N)
        for k in tl.static_range(K):
            valid = is_used & (first + k <= last)
            tap = load_tap(weight + offset * K, columns, N, k, K)
            total = total + tap * load_rows_at(values + offset, first + k, valid, columns, N, stride)
            uses_tap = is_used & (k >= position)
            if k == K - 1:
                d = load_rows_at(d_first_C, k * B.to(tl.int64) + seq, uses_tap, columns, N, N)
                # The first position of the sequence lies in this block or in the previous one.
                next_block = uses_tap & (last >= (first // Q + 1) * Q)
                at = (first // Q)[:, None] * width + offsets_column + columns[None, :]
                d += tl.load(offsets + at, mask=next_block[:, None] & (columns < N)[None, :], other=0.0)
            else:
                d = load_rows_at(d_first_C, k * B.to(tl.int64) + seq, uses_tap & valid, columns, N, N)
            d_sum += d * silu_derivative(total)
        d_row = tl.zeros((Q, COLUMNS), dtype=tl.float32)
        for j in tl.static_range(K):
            d_tap = tl.where((position == j)[:, None], d_sum, 0.0)
            d_row += load_tap(weight + offset * K, columns, N, j, K) * d_tap
            partials += partial_sum(K - 1 - j, d_tap * C_rows, K)
            if j == 0:
                partials += partial_sum(K, d_tap, K)
        mask = (rows < T)[:, None] & (columns < N)[None, :]
        at = rows[:, None] * channels + offset + columns[None, :]
        tl.store(d_values + at, d_row.to(d_values.dtype.element_ty), mask=mask)
    store_partials(d_partials + offset, partials, program, columns, N, channels, K)
