"""The forward kernels of `backward_prefix_readout`, and what they share with the backward ones.

Event s counts in the prefix that ends at t = s + k with the taps 0 … min(k, K-1) of the convolution, and with C and x of the
history's first event as heard with min(t - first, K-1) + 1 taps. From k = K-1 on nothing depends on t: this is the cumulative
sum.
"""
# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, no-untyped-def, unused-ignore"
# ruff: noqa: ANN001, ANN201 - kernels: pointers and constexprs carry no types that Python knows

from typing import no_type_check

import triton
import triton.language as tl

from ssd4rec.ops.triton.common import NO_EVENT
from ssd4rec.ops.triton.segment_sums import carried, leaving, ones
from ssd4rec.ops.triton.ssd_tiles import per_column


@triton.jit
@no_type_check
def places_in(first, last, block, T, Q: tl.constexpr):
    """(start of the block, rows, inside the row?, where the history of each begins, where it ends), places from `start` on.

    The block's place is a 64-bit scalar, the places in it are 32-bit: half the registers. Past the row's end a history is empty.
    """
    start = block.to(tl.int64) * Q
    rows = tl.arange(0, Q)
    here = start + rows < T
    begins = tl.load(first + start + rows, mask=here, other=0) - start
    ends = tl.load(last + start + rows, mask=here, other=NO_EVENT) - start
    return start, rows, here, begins.to(tl.int32), ends.to(tl.int32)


@triton.jit
@no_type_check
def bias_of(bias, columns, limit):
    """[1, columns] float32."""
    return tl.load(bias + columns, mask=columns < limit, other=0.0).to(tl.float32)[None, :]


@triton.jit
@no_type_check
def tap_of(weight, columns, limit, k: tl.constexpr, K: tl.constexpr):
    """[1, columns] float32: what meets the event k after the one that hears."""
    return tl.load(weight + columns * K + (K - 1 - k), mask=columns < limit, other=0.0).to(tl.float32)[None, :]


@triton.jit
@no_type_check
def rows_at(values, event, valid, columns, limit, stride):
    """[rows, columns] float32 of the events that are valid; 0 for the others."""
    mask = valid[:, None] & (columns < limit)[None, :]
    return tl.load(values + event[:, None] * stride + columns[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
@no_type_check
def heard(values, weight, bias, event, begins, end, columns, limit, stride, K: tl.constexpr):
    """[rows, columns]: `event` as the prefix that ends at `end` hears it, before SiLU."""
    total = bias_of(bias, columns, limit)
    for i in tl.static_range(K):
        valid = (event >= begins) & (event + i <= end)
        total = total + tap_of(weight, columns, limit, i, K) * rows_at(values, event + i, valid, columns, limit, stride)
    return total


@triton.jit
@no_type_check
def silu(values):
    """v sigmoid(v)."""
    return values * tl.sigmoid(values)


@triton.jit
@no_type_check
def silu_slope(values):
    """The derivative of `silu`."""
    gate = tl.sigmoid(values)
    return gate * (1 + values * (1 - gate))


@triton.jit
@no_type_check
def strength_of(dt, past, event, valid, heads, H, stride_dt):
    """[rows, heads]: exp(S_{s-1}) dt_s of the events that are valid; 0 for the others."""
    mask = valid[:, None] & (heads < H)[None, :]
    steps = tl.load(dt + event[:, None] * stride_dt + heads[None, :], mask=mask, other=0.0)
    return steps * tl.load(past + event[:, None] * H + heads[None, :], mask=mask, other=0.0)


@triton.jit
@no_type_check
def contribution(
    values, weight, bias, dt, past, match, event, begins, ends, columns, heads, stride, stride_dt, H,
    k, HG: tl.constexpr, P: tl.constexpr, K: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """[Q, HG * P]: what `event` gives to the prefix that ends k < K events after it; k = K-1: or later."""
    valid = (event >= begins) & (event + k <= ends)
    factor = strength_of(dt, past, event, valid, heads, H, stride_dt)
    factor *= tl.load(match + event * K + k, mask=valid, other=0.0)[:, None]
    end = tl.minimum(event + k, ends)
    return silu(heard(values, weight, bias, event, begins, end, columns, H * P, stride, K)) * per_column(factor, Q, HG, P)


@triton.jit(do_not_specialize=["B"])
@no_type_check
def first_reads(values, weight, bias, cu_seqlens, reads, B, stride, offset, K: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr):
    """reads [K, B, N]: C of each history's first event, heard with 1 … K taps as far as the history has events."""
    history = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    begins = tl.load(cu_seqlens + history, mask=history < B, other=0)
    ends = tl.load(cu_seqlens + history + 1, mask=history < B, other=0) - 1
    columns = tl.arange(0, N)
    total = bias_of(bias + offset, columns, N)
    for k in tl.static_range(K):
        tap = tap_of(weight + offset * K, columns, N, k, K)
        total = total + tap * rows_at(values + offset, begins + k, begins + k <= ends, columns, N, stride)
        at = (k * B.to(tl.int64) + history[:, None]) * N + columns[None, :]
        tl.store(reads + at, silu(total), mask=(history < B)[:, None])


@triton.jit(do_not_specialize=["T", "B"])
@no_type_check
def matches(
    values, weight, bias, reads, first, last, history, match, T, B, stride, offset,
    K: tl.constexpr, N: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """match [T, K]: <C of the history's first event, B of event s>, both as the prefix hears them that ends k events after s."""
    start, rows, here, begins, ends = places_in(first, last, tl.program_id(0), T, Q)
    mine = tl.load(history + start + rows, mask=here, other=0)
    events = values + start * stride + offset
    columns = tl.arange(0, N)
    total = bias_of(bias + offset, columns, N)
    for k in tl.static_range(K):
        valid = rows + k <= ends
        tap = tap_of(weight + offset * K, columns, N, k, K)
        total = total + tap * rows_at(events, rows + k, valid, columns, N, stride)
        row = tl.minimum(rows - begins + k, K - 1) * B + mine
        read = rows_at(reads, row, valid, columns, N, N)
        tl.store(match + start * K + rows * K + k, tl.sum(read * silu(total), axis=1), mask=here)


@triton.jit(do_not_specialize=["T"])
@no_type_check
def settled_totals(
    values, weight, bias, dt, past, match, first, last, totals, T, stride, stride_dt, H,
    HG: tl.constexpr, P: tl.constexpr, K: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """totals [blocks, H * P] of what each event gives to all prefixes that end K-1 events after it or later."""
    tiles = tl.cdiv(H, HG)
    block = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    heads = tile * HG + tl.arange(0, HG)
    columns = tile * HG * P + tl.arange(0, HG * P)
    start, rows, _, begins, ends = places_in(first, last, block, T, Q)
    if tl.max(ends, axis=0) >= Q:  # no total is asked for elsewhere
        ends = tl.where(leaving(begins, ends, 0, Q), ends, begins - 1)
        events, steps, kept, matched = values + start * stride, dt + start * stride_dt, past + start * H, match + start * K
        settled = contribution(
            events, weight, bias, steps, kept, matched, rows - (K - 1), begins, ends, columns, heads, stride, stride_dt, H,
            K - 1, HG, P, K, Q,
        )  # fmt: skip
        tl.store(totals + block.to(tl.int64) * H * P + columns, tl.sum(settled, axis=0), mask=columns < H * P)


@triton.jit(do_not_specialize=["T"])
@no_type_check
def read_prefixes(
    values, weight, bias, dt, past, match, D, carry, first, last, y, T, stride, stride_dt, H,
    HG: tl.constexpr, P: tl.constexpr, K: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """y [T, H * P]: row t is the prefix that ends at t."""
    tiles = tl.cdiv(H, HG)
    block = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    heads = tile * HG + tl.arange(0, HG)
    columns = tile * HG * P + tl.arange(0, HG * P)
    start, rows, here, begins, ends = places_in(first, last, block, T, Q)
    events, steps, kept, matched = values + start * stride, dt + start * stride_dt, past + start * H, match + start * K
    settled = tl.zeros((Q, HG * P), dtype=tl.float32)
    out = tl.zeros((Q, HG * P), dtype=tl.float32)
    for k in range(K):  # a loop of the GPU, not unrolled: a quarter of the code
        given = contribution(
            events,
            weight,
            bias,
            steps,
            kept,
            matched,
            rows - k,
            begins,
            ends,
            columns,
            heads,
            stride,
            stride_dt,
            H,
            k,
            HG,
            P,
            K,
            Q,
        )
        out += tl.where(k < K - 1, given, 0.0)
        settled += tl.where(k < K - 1, 0.0, given)
    out += tl.dot(ones(begins, False, True, Q), settled, input_precision="tf32x3")
    out += carried(carry, block, (ends >= 0) & (begins < 0), columns, H * P, H * P)
    skip = tl.load(D + columns // P, mask=columns < H * P, other=0.0)
    # The first event, heard as far as the prefix goes: its last event is `rows`.
    origin = begins + start
    reached = heard(values, weight, bias, origin, origin, tl.minimum(rows, ends) + start, columns, H * P, stride, K)
    out += skip[None, :] * silu(reached)
    mask = here[:, None] & (columns < H * P)[None, :]
    tl.store(y + start * (H * P) + rows[:, None] * (H * P) + columns[None, :], out.to(y.dtype.element_ty), mask=mask)
