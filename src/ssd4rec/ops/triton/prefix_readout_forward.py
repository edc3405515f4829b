"""Forward kernels of `backward_prefix_readout`, and helpers that the backward kernels share.

In the prefix that ends at t = s + k, the convolution at source position s uses the taps 0 … min(k, K-1), and C and x of the first
position use min(t - first, K-1) + 1 taps. From k = K-1 on nothing depends on t, and the terms form a cumulative sum.
"""

import triton
import triton.language as tl

from ssd4rec.ops.triton.common import NO_POSITION, expand_heads, head_tile
from ssd4rec.ops.triton.segment_sums import continues_after, load_offsets, sum_mask


@triton.jit
def block_positions(seq_starts, seq_ends, block, T, Q: tl.constexpr):
    """Return (start of the block, rows, in bounds?, first and last position of each row's sequence), relative to `start`.

    The start is a 64-bit scalar and the relative positions are 32-bit, which halves the registers.
    Past the end of the packed batch, first = 0 and last = -1 (an empty sequence).
    """
    start = block.to(tl.int64) * Q
    rows = tl.arange(0, Q)
    in_bounds = start + rows < T
    first = tl.load(seq_starts + start + rows, mask=in_bounds, other=0) - start
    last = tl.load(seq_ends + start + rows, mask=in_bounds, other=NO_POSITION) - start
    return start, rows, in_bounds, first.to(tl.int32), last.to(tl.int32)


@triton.jit
def load_bias(bias, columns, limit):
    """[1, columns] float32."""
    return tl.load(bias + columns, mask=columns < limit, other=0.0).to(tl.float32)[None, :]


@triton.jit
def load_tap(weight, columns, limit, k: tl.constexpr, K: tl.constexpr):
    """[1, columns] float32: the weight of the neighbor at distance k."""
    return tl.load(weight + columns * K + (K - 1 - k), mask=columns < limit, other=0.0).to(tl.float32)[None, :]


@triton.jit
def load_rows_at(values, source, valid, columns, limit, stride):
    """[rows, columns] float32 at the valid source positions; 0 elsewhere."""
    mask = valid[:, None] & (columns < limit)[None, :]
    return tl.load(values + source[:, None] * stride + columns[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def convolved_at(values, weight, bias, source, first, end, columns, limit, stride, K: tl.constexpr):
    """[rows, columns]: the convolution at `source` in the prefix that ends at `end`, before SiLU."""
    total = load_bias(bias, columns, limit)
    for i in tl.static_range(K):
        valid = (source >= first) & (source + i <= end)
        total = total + load_tap(weight, columns, limit, i, K) * load_rows_at(values, source + i, valid, columns, limit, stride)
    return total


@triton.jit
def silu(values):
    """v sigmoid(v)."""
    return values * tl.sigmoid(values)


@triton.jit
def silu_derivative(values):
    """The derivative of `silu`."""
    gate = tl.sigmoid(values)
    return gate * (1 + values * (1 - gate))


@triton.jit
def load_decayed_dt(dt, decay, source, valid, heads, H, stride_dt):
    """[rows, heads]: exp(S_{s-1}) dt_s at the valid source positions; 0 elsewhere."""
    mask = valid[:, None] & (heads < H)[None, :]
    steps = tl.load(dt + source[:, None] * stride_dt + heads[None, :], mask=mask, other=0.0)
    return steps * tl.load(decay + source[:, None] * H + heads[None, :], mask=mask, other=0.0)


@triton.jit
def contribution(
    values, weight, bias, dt, decay, cb, source, first, last, columns, heads, stride, stride_dt, H,
    k, HG: tl.constexpr, P: tl.constexpr, K: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """[Q, HG * P]: contribution of `source` to the prefix that ends k < K positions after it; k = K-1: or later."""
    valid = (source >= first) & (source + k <= last)
    factor = load_decayed_dt(dt, decay, source, valid, heads, H, stride_dt)
    factor *= tl.load(cb + source * K + k, mask=valid, other=0.0)[:, None]
    end = tl.minimum(source + k, last)
    return silu(convolved_at(values, weight, bias, source, first, end, columns, H * P, stride, K)) * expand_heads(
        factor, Q, HG, P
    )


@triton.jit(do_not_specialize=["B"])
def compute_first_C(
    values, weight, bias, cu_seqlens, first_C, B, stride, offset, K: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr
):
    """Store first_C [K, B, N]: C at the first position of each sequence, with 1 … K taps as far as the sequence reaches."""
    sequence = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    first = tl.load(cu_seqlens + sequence, mask=sequence < B, other=0)
    last = tl.load(cu_seqlens + sequence + 1, mask=sequence < B, other=0) - 1
    columns = tl.arange(0, N)
    total = load_bias(bias + offset, columns, N)
    for k in tl.static_range(K):
        tap = load_tap(weight + offset * K, columns, N, k, K)
        total = total + tap * load_rows_at(values + offset, first + k, first + k <= last, columns, N, stride)
        at = (k * B.to(tl.int64) + sequence[:, None]) * N + columns[None, :]
        tl.store(first_C + at, silu(total), mask=(sequence < B)[:, None])


@triton.jit(do_not_specialize=["T", "B"])
def compute_cb(
    values, weight, bias, first_C, seq_starts, seq_ends, seq_idx, cb, T, B, stride, offset,
    K: tl.constexpr, N: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """Store cb [T, K]: <C of the first position, B of position s> in the prefix that ends k positions after s."""
    start, rows, in_bounds, first, last = block_positions(seq_starts, seq_ends, tl.program_id(0), T, Q)
    seq = tl.load(seq_idx + start + rows, mask=in_bounds, other=0)
    block_values = values + start * stride + offset
    columns = tl.arange(0, N)
    total = load_bias(bias + offset, columns, N)
    for k in tl.static_range(K):
        valid = rows + k <= last
        tap = load_tap(weight + offset * K, columns, N, k, K)
        total = total + tap * load_rows_at(block_values, rows + k, valid, columns, N, stride)
        row = tl.minimum(rows - first + k, K - 1) * B + seq
        C_row = load_rows_at(first_C, row, valid, columns, N, N)
        tl.store(cb + start * K + rows * K + k, tl.sum(C_row * silu(total), axis=1), mask=in_bounds)


@triton.jit(do_not_specialize=["T"])
def complete_totals(
    values, weight, bias, dt, decay, cb, seq_starts, seq_ends, totals, T, stride, stride_dt, H,
    HG: tl.constexpr, P: tl.constexpr, K: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """Store totals [blocks, H * P] of the contributions to the prefixes that end at least K-1 positions later."""
    block, _tile, heads, columns = head_tile(H, HG, P)
    start, rows, _, first, last = block_positions(seq_starts, seq_ends, block, T, Q)
    if tl.max(last, axis=0) >= Q:  # no other block needs its total
        last = tl.where(continues_after(first, last, 0, Q), last, first - 1)
        block_values, steps, decays, cb_rows = values + start * stride, dt + start * stride_dt, decay + start * H, cb + start * K
        complete = contribution(
            block_values, weight, bias, steps, decays, cb_rows, rows - (K - 1), first, last, columns, heads, stride, stride_dt, H,
            K - 1, HG, P, K, Q,
        )  # fmt: skip
        tl.store(totals + block.to(tl.int64) * H * P + columns, tl.sum(complete, axis=0), mask=columns < H * P)


@triton.jit(do_not_specialize=["T"])
def prefix_output(
    values, weight, bias, dt, decay, cb, D, offsets, seq_starts, seq_ends, y, T, stride, stride_dt, H,
    HG: tl.constexpr, P: tl.constexpr, K: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """Store y [T, H * P]: row t is the prefix that ends at t."""
    block, _tile, heads, columns = head_tile(H, HG, P)
    start, rows, in_bounds, first, last = block_positions(seq_starts, seq_ends, block, T, Q)
    block_values, steps, decays, cb_rows = values + start * stride, dt + start * stride_dt, decay + start * H, cb + start * K
    complete = tl.zeros((Q, HG * P), dtype=tl.float32)
    out = tl.zeros((Q, HG * P), dtype=tl.float32)
    for k in range(K):  # not unrolled: a quarter of the code
        term = contribution(
            block_values, weight, bias, steps, decays, cb_rows, rows - k, first, last, columns, heads, stride, stride_dt, H,
            k, HG, P, K, Q,
        )  # fmt: skip
        out += tl.where(k < K - 1, term, 0.0)
        complete += tl.where(k < K - 1, 0.0, term)
    out += tl.dot(sum_mask(first, False, True, Q), complete, input_precision="tf32x3")
    out += load_offsets(offsets, block, (last >= 0) & (first < 0), columns, H * P, H * P)
    skip = tl.load(D + columns // P, mask=columns < H * P, other=0.0)
    # The first position, convolved over the prefix that ends at each row.
    origin = first + start
    convolved = convolved_at(values, weight, bias, origin, origin, tl.minimum(rows, last) + start, columns, H * P, stride, K)
    out += skip[None, :] * silu(convolved)
    mask = in_bounds[:, None] & (columns < H * P)[None, :]
    tl.store(y + start * (H * P) + rows[:, None] * (H * P) + columns[None, :], out.to(y.dtype.element_ty), mask=mask)
