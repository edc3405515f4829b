"""The backward kernels of `backward_prefix_readout`: of x, of B, and of C, which only a history's first event has a part in.

A row t of the channels was heard as tap j by the event t - j in every prefix that ends j events after that event or later: its
gradient gathers those, so that nothing is scattered. `d_parts` holds the weights' gradients (rows 0 … K-1: column j of `weight`)
and the bias's (row K) of each program, to be summed.
"""
# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, no-untyped-def, unused-ignore"
# ruff: noqa: ANN001, ANN201 - kernels: pointers and constexprs carry no types that Python knows

from typing import no_type_check

import triton
import triton.language as tl

from ssd4rec.ops.triton.common import places_of
from ssd4rec.ops.triton.prefixes_forward import bias_of, heard, places_in, rows_at, silu, silu_slope, strength_of, tap_of
from ssd4rec.ops.triton.segment_sums import carried, ones
from ssd4rec.ops.triton.ssd_tiles import per_column, per_head


@triton.jit
@no_type_check
def put_parts(parts, d_parts, program, columns, limit, channels, K: tl.constexpr):
    """Write [next_power_of_2(K + 1), columns] to the rows of a program; `parts` and `columns` begin at the same channel."""
    taps = tl.arange(0, triton.next_power_of_2(K + 1))
    at = (program * (K + 1) + taps[:, None]) * channels + columns[None, :]
    tl.store(parts + at, d_parts, mask=(taps <= K)[:, None] & (columns < limit)[None, :])


@triton.jit
@no_type_check
def part(row, values, K: tl.constexpr):
    """[next_power_of_2(K + 1), columns]: values, summed over their events, in one row."""
    taps = tl.arange(0, triton.next_power_of_2(K + 1))
    return tl.where((taps == row)[:, None], tl.sum(values, axis=0)[None, :], 0.0)


@triton.jit(do_not_specialize=["T"])
@no_type_check
def gradient_totals(grad, first, last, totals, T, width, COLUMNS: tl.constexpr, K: tl.constexpr, Q: tl.constexpr):
    """totals [blocks, width], for the sum from the end, of dy K-1 events later, of the history that came into the block."""
    tiles = tl.cdiv(width, COLUMNS)
    block = tl.program_id(0) // tiles
    columns = (tl.program_id(0) % tiles) * COLUMNS + tl.arange(0, COLUMNS)
    start, rows, _, begins, ends = places_in(first, last, block, T, Q)
    came = (begins < 0) & (rows + (K - 1) <= ends)
    total = tl.sum(rows_at(grad + start * width, rows + (K - 1), came, columns, width, width), axis=0)
    tl.store(totals + block.to(tl.int64) * width + columns, total, mask=columns < width)


@triton.jit
@no_type_check
def given_back(dy, carry, block, rows, begins, ends, columns, E, K: tl.constexpr, Q: tl.constexpr):
    """[Q, columns]: what all prefixes give back that end K-1 events after the row's event or later."""
    later = rows_at(dy, rows + (K - 1), rows + (K - 1) <= ends, columns, E, E)
    later = tl.dot(ones(begins, True, True, Q), later, input_precision="tf32x3")
    return later + carried(carry, block, ends >= Q, columns, E, E)


@triton.jit(do_not_specialize=["T"])
@no_type_check
def strengths_backward(
    values, weight, bias, dt, past, match, grad, carry, first, last, d_strength, d_match, dD, totals,
    T, stride, stride_dt, H, width, HG: tl.constexpr, P: tl.constexpr, K: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """Of an event's factors: d_strength [T, H], d_match [tiles, T, K] and dD [blocks, H], both to be summed.

    Totals [blocks, width >= H]: d_strength strength of the history that came into the block.
    """
    tiles = tl.cdiv(H, HG)
    block = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    heads = tile * HG + tl.arange(0, HG)
    columns = tile * HG * P + tl.arange(0, HG * P)
    E = H * P
    start, rows, here, begins, ends = places_in(first, last, block, T, Q)
    events, dy, matches = values + start * stride, grad + start * E, match + start * K
    later = given_back(dy, carry, block, rows, begins, ends, columns, E, K, Q)
    strength = strength_of(dt + start * stride_dt, past + start * H, rows, here, heads, H, stride_dt)
    d_of_heads = tl.zeros((Q, HG), dtype=tl.float32)
    of_skip = tl.zeros((Q, HG), dtype=tl.float32)
    for k in range(K):
        valid = rows + k <= ends
        d_term = tl.where((valid & (k == K - 1))[:, None], later, rows_at(dy, rows + k, valid & (k < K - 1), columns, E, E))
        before = heard(events, weight, bias, rows, begins, tl.minimum(rows + k, ends), columns, E, stride, K)
        of_heads = per_head(d_term * silu(before), Q, HG, P)
        d_of_heads += of_heads * tl.load(matches + rows * K + k, mask=valid, other=0.0)[:, None]
        of_skip += of_heads
        at = (tile.to(tl.int64) * T + start) * K + rows * K + k
        tl.store(d_match + at, tl.sum(of_heads * strength, axis=1), mask=here)
    mask = here[:, None] & (heads < H)[None, :]
    tl.store(d_strength + start * H + rows[:, None] * H + heads[None, :], d_of_heads, mask=mask)
    came = ((begins < 0) & (ends >= 0))[:, None]
    total = tl.sum(tl.where(came, d_of_heads * strength, 0.0), axis=0)
    tl.store(totals + block * width + heads, total, mask=heads < H)
    of_skip = tl.sum(tl.where((rows == begins)[:, None], of_skip, 0.0), axis=0)
    tl.store(dD + block * H + heads, of_skip, mask=heads < H)


@triton.jit(do_not_specialize=["T"])
@no_type_check
def values_backward(
    values, weight, bias, dt, past, match, D, grad, carry, first, last, d_values, d_parts, T, stride, stride_dt, H, channels,
    HG: tl.constexpr, P: tl.constexpr, K: tl.constexpr, Q: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Of x: d_values [T, channels] and d_parts."""
    tiles = tl.cdiv(H, HG)
    program = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    heads = tile * HG + tl.arange(0, HG)
    columns = tile * HG * P + tl.arange(0, HG * P)
    E = H * P
    inside = columns < E
    skip = tl.load(D + columns // P, mask=inside, other=0.0)[None, :]
    parts = tl.zeros((triton.next_power_of_2(K + 1), HG * P), dtype=tl.float32)
    for turn in range(BLOCKS):
        block = program * BLOCKS + turn
        start, rows, here, begins, ends = places_in(first, last, block, T, Q)
        events, dy, matches = values + start * stride, grad + start * E, match + start * K
        steps, kept = dt + start * stride_dt, past + start * H
        own = rows_at(events, rows, here, columns, E, stride)
        later = given_back(dy, carry, block, rows, begins, ends, columns, E, K, Q)
        d_row = tl.zeros((Q, HG * P), dtype=tl.float32)
        for j in range(K):  # a loop of the GPU, not unrolled: a quarter of the code
            event = rows - j
            more = (event >= begins) & (event + (K - 1) <= ends) & (j > 0)
            later += rows_at(dy, event + (K - 1), more, columns, E, E)
            strength = strength_of(steps, kept, event, (event >= begins) & (event <= ends), heads, H, stride_dt)
            skipped = tl.where((event == begins)[:, None], skip, 0.0)
            before = bias_of(bias, columns, E)
            reached = tl.zeros((Q, HG * P), dtype=tl.float32)
            for k in tl.static_range(K):
                valid = (event >= begins) & (event + k <= ends)
                before = before + tap_of(weight, columns, E, k, K) * rows_at(events, event + k, valid, columns, E, stride)
                counts = valid & (k >= j)
                if k == K - 1:  # noqa: SIM108 - k is a constant: only one of the two is compiled
                    d_term = tl.where(counts[:, None], later, 0.0)
                else:
                    d_term = rows_at(dy, event + k, counts, columns, E, E)
                matched = tl.load(matches + event * K + k, mask=counts, other=0.0)[:, None]
                reached += d_term * (per_column(strength * matched, Q, HG, P) + skipped) * silu_slope(before)
            tap = tl.load(weight + columns * K + (K - 1 - j), mask=inside, other=0.0).to(tl.float32)
            d_row += tap[None, :] * reached
            parts += part(K - 1 - j, reached * own, K) + tl.where(j == 0, part(K, reached, K), 0.0)
        mask = here[:, None] & inside[None, :]
        at = rows[:, None] * channels + columns[None, :]
        tl.store(d_values + start * channels + at, d_row.to(d_values.dtype.element_ty), mask=mask)
    put_parts(d_parts, parts, program, columns, E, channels, K)


@triton.jit(do_not_specialize=["T", "B"])
@no_type_check
def writes_backward(
    values, weight, bias, reads, d_match, first, last, history, d_values, d_parts, d_reads, totals,
    T, B, stride, offset, channels, before_totals, width,
    K: tl.constexpr, N: tl.constexpr, COLUMNS: tl.constexpr, Q: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Of B: d_values and d_parts; d_reads [K, B, N]: of C of the first event, for the last number of taps its block's share only.

    Totals [blocks, width], from column before_totals on: that share of the history that came into the block.
    """
    tiles = tl.cdiv(N, COLUMNS)
    program = (tl.program_id(0) // tiles).to(tl.int64)
    columns = (tl.program_id(0) % tiles) * COLUMNS + tl.arange(0, COLUMNS)
    parts = tl.zeros((triton.next_power_of_2(K + 1), COLUMNS), dtype=tl.float32)
    for turn in range(BLOCKS):
        block = program * BLOCKS + turn
        start, rows, here, begins, ends = places_in(first, last, block, T, Q)
        events, d_matches = values + start * stride + offset, d_match + start * K
        mine = tl.load(history + start + rows, mask=here, other=0)
        place = rows - begins
        own = rows_at(events, rows, here, columns, N, stride)
        d_row = tl.zeros((Q, COLUMNS), dtype=tl.float32)
        of_read = tl.zeros((Q, COLUMNS), dtype=tl.float32)  # of C as the prefix hears it that ends at t
        for j in range(K):
            event = rows - j
            before = bias_of(bias + offset, columns, N)
            reached = tl.zeros((Q, COLUMNS), dtype=tl.float32)
            for k in tl.static_range(K):
                valid = (event >= begins) & (event + k <= ends)
                tap = tap_of(weight + offset * K, columns, N, k, K)
                before = before + tap * rows_at(events, event + k, valid, columns, N, stride)
                d = tl.load(d_matches + event * K + k, mask=valid & (k >= j), other=0.0)[:, None]
                row = tl.minimum(place - j + k, K - 1) * B + mine
                reached += d * rows_at(reads, row, valid & (k >= j), columns, N, N) * silu_slope(before)
                of_read += tl.where(k == j, d * silu(before), 0.0)
            tap = tl.load(weight + offset * K + columns * K + (K - 1 - j), mask=columns < N, other=0.0).to(tl.float32)
            d_row += tap[None, :] * reached
            parts += part(K - 1 - j, reached * own, K) + tl.where(j == 0, part(K, reached, K), 0.0)
        mask = here[:, None] & (columns < N)[None, :]
        at = rows[:, None] * channels + columns[None, :]
        tl.store(d_values + start * channels + offset + at, d_row.to(d_values.dtype.element_ty), mask=mask)
        early = tl.where(here, place, K - 1) < K - 1
        at = (tl.where(early, place, 0) * B + mine)[:, None] * N + columns[None, :]
        tl.store(d_reads + at, of_read, mask=mask & early[:, None])
        settled = tl.where(early[:, None], 0.0, of_read)
        shared = tl.dot(ones(begins, True, True, Q), settled, input_precision="tf32x3")
        at = ((K - 1) * B.to(tl.int64) + mine)[:, None] * N + columns[None, :]
        tl.store(d_reads + at, shared, mask=mask & (place == 0)[:, None])
        came = ((begins < 0) & (ends >= 0))[:, None]
        total = tl.sum(tl.where(came, settled, 0.0), axis=0)
        tl.store(totals + block * width + before_totals + columns, total, mask=(columns < N) & (start < T))
    put_parts(d_parts + offset, parts, program, columns, N, channels, K)


@triton.jit(do_not_specialize=["T", "B"])
@no_type_check
def reads_backward(
    values, weight, bias, d_reads, carry, first, last, history, d_values, d_parts,
    T, B, stride, offset, channels, before_carry, width,
    K: tl.constexpr, N: tl.constexpr, COLUMNS: tl.constexpr, Q: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Of C: d_values and d_parts; only the first K events of a history have been heard."""
    tiles = tl.cdiv(N, COLUMNS)
    program = (tl.program_id(0) // tiles).to(tl.int64)
    columns = (tl.program_id(0) % tiles) * COLUMNS + tl.arange(0, COLUMNS)
    parts = tl.zeros((triton.next_power_of_2(K + 1), COLUMNS), dtype=tl.float32)
    for turn in range(BLOCKS):
        block = program * BLOCKS + turn
        rows, begins, ends = places_of(first, last, block, T, Q)
        place = rows - begins
        heard_of = (rows < T) & (place < K)
        mine = tl.load(history + rows, mask=heard_of, other=0)
        own = rows_at(values + offset, rows, heard_of, columns, N, stride)
        reached = tl.zeros((Q, COLUMNS), dtype=tl.float32)
        before = bias_of(bias + offset, columns, N)
        for k in tl.static_range(K):
            valid = heard_of & (begins + k <= ends)
            tap = tap_of(weight + offset * K, columns, N, k, K)
            before = before + tap * rows_at(values + offset, begins + k, valid, columns, N, stride)
            asked = heard_of & (k >= place)
            if k == K - 1:
                d = rows_at(d_reads, k * B.to(tl.int64) + mine, asked, columns, N, N)
                # The history's first event lies in this block or in the one before it.
                over = asked & (ends >= (begins // Q + 1) * Q)
                at = (begins // Q)[:, None] * width + before_carry + columns[None, :]
                d += tl.load(carry + at, mask=over[:, None] & (columns < N)[None, :], other=0.0)
            else:
                d = rows_at(d_reads, k * B.to(tl.int64) + mine, asked & valid, columns, N, N)
            reached += d * silu_slope(before)
        d_row = tl.zeros((Q, COLUMNS), dtype=tl.float32)
        for j in tl.static_range(K):
            of_tap = tl.where((place == j)[:, None], reached, 0.0)
            d_row += tap_of(weight + offset * K, columns, N, j, K) * of_tap
            parts += part(K - 1 - j, of_tap * own, K)
            if j == 0:
                parts += part(K, of_tap, K)
        mask = (rows < T)[:, None] & (columns < N)[None, :]
        at = rows[:, None] * channels + offset + columns[None, :]
        tl.store(d_values + at, d_row.to(d_values.dtype.element_ty), mask=mask)
    put_parts(d_parts + offset, parts, program, columns, N, channels, K)
