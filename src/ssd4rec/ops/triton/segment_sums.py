"""Cumulative sums within sequences: a masked matrix of ones within blocks of Q positions, then a scan over block totals.

The total of a block is the sum over the sequence that continues into the next block (reversed: from the previous block).
`scan_block_totals` adds the totals of each sequence separately: no sequence depends on another, and no sum is the difference of
two longer sums.
"""

import triton
import triton.language as tl

from ssd4rec.ops.triton.common import NO_POSITION, load_positions


@triton.jit
def continues_after(first, last, start, Q: tl.constexpr):
    """[Q]: whether each row belongs to the sequence that continues after the block."""
    goes_on = tl.max(last, axis=0) >= start + Q
    return goes_on & (first == tl.max(first, axis=0))


@triton.jit
def sum_mask(first, AFTER: tl.constexpr, SELF: tl.constexpr, Q: tl.constexpr):
    """[Q, Q] float32: 1 where the column is in the sequence of the row and not later (AFTER: not earlier)."""
    place = tl.arange(0, Q)
    if AFTER:
        counts = place[None, :] >= place[:, None] + (0 if SELF else 1)
    else:
        counts = place[None, :] <= place[:, None] - (0 if SELF else 1)
    return (counts & (first[:, None] == first[None, :])).to(tl.float32)


@triton.jit
def load_offsets(offsets, block, rows_mask, columns, limit, width):
    """[Q, columns]: the sum over earlier (later) blocks for the rows selected by `rows_mask`, else 0; columns < limit."""
    mask = rows_mask[:, None] & (columns < limit)[None, :]
    at = block.to(tl.int64) * width + columns
    return tl.load(tl.broadcast_to((offsets + at)[None, :], mask.shape), mask=mask, other=0.0)


@triton.jit(do_not_specialize=["T"])
def scan_block_totals(
    totals, offsets, seq_starts, seq_ends, T, width, COLUMNS: tl.constexpr, Q: tl.constexpr, REVERSE: tl.constexpr
):
    """Store offsets[b] [blocks, width]: the sum of the totals before b (REVERSE: after b) of the sequence that enters b.

    The program of the block in which a sequence starts (REVERSE: ends) loops to the block in which it ends (starts).
    """
    tiles = tl.cdiv(width, COLUMNS)
    block = (tl.program_id(0) // tiles).to(tl.int64)
    columns = (tl.program_id(0) % tiles) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < width
    start = block * Q
    if REVERSE:
        first = tl.load(seq_starts + start)
        starts_here = (first < start) & (tl.load(seq_ends + start) < start + Q)
        steps = block - first // Q
    else:
        end = start + Q - 1
        last = tl.load(seq_ends + end, mask=end < T, other=NO_POSITION)
        starts_here = (last > end) & (tl.load(seq_starts + end, mask=end < T, other=NO_POSITION) >= start)
        steps = last // Q - block
    if starts_here:
        total = tl.zeros((COLUMNS,), dtype=tl.float32)
        for step in range(steps.to(tl.int32)):
            at = block - step if REVERSE else block + step
            total += tl.load(totals + at * width + columns, mask=inside, other=0.0)
            tl.store(offsets + (at - 1 if REVERSE else at + 1) * width + columns, total, mask=inside)


@triton.jit(do_not_specialize=["T"])
def decay_totals(dt, A, seq_starts, seq_ends, totals, T, stride_dt, H, HEADS: tl.constexpr, Q: tl.constexpr):
    """Store totals [blocks, H] of dt A."""
    block = tl.program_id(0)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    rows, first, last = load_positions(seq_starts, seq_ends, block, T, Q)
    mask = continues_after(first, last, block.to(tl.int64) * Q, Q)[:, None] & (heads < H)[None, :]
    decays = tl.load(dt + rows[:, None] * stride_dt + heads[None, :], mask=mask, other=0.0)
    rate = tl.load(A + heads, mask=heads < H, other=0.0)
    tl.store(totals + block.to(tl.int64) * H + heads, tl.sum(decays * rate[None, :], axis=0), mask=heads < H)


@triton.jit(do_not_specialize=["T"])
def exclusive_decay(dt, A, seq_starts, seq_ends, offsets, decay, T, stride_dt, H, HEADS: tl.constexpr, Q: tl.constexpr):
    """Store decay [T, H] = exp(S_{s-1}), the decay from the start of the sequence up to position s."""
    block = tl.program_id(0)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    rows, first, last = load_positions(seq_starts, seq_ends, block, T, Q)
    mask = (rows < T)[:, None] & (heads < H)[None, :]
    rate = tl.load(A + heads, mask=heads < H, other=0.0)
    decays = tl.load(dt + rows[:, None] * stride_dt + heads[None, :], mask=mask, other=0.0) * rate[None, :]
    sums = tl.dot(sum_mask(first, False, False, Q), decays, input_precision="ieee")
    sums += load_offsets(offsets, block, (last >= 0) & (first < block.to(tl.int64) * Q), heads, H, H)
    tl.store(decay + rows[:, None] * H + heads[None, :], tl.exp(sums), mask=mask)


@triton.jit(do_not_specialize=["T"])
def exclusive_decay_backward(
    dt, A, seq_starts, seq_ends, decay, d_decayed_dt, offsets, d_dt, dA, T, stride_dt, H, width,
    HEADS: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """Store d_dt [T, H] and dA [blocks, H], to be summed, for decayed_dt = dt * decay.

    Offsets [blocks, width >= H]: sums of d_decayed_dt * decayed_dt.
    """
    block = tl.program_id(0)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    rows, first, last = load_positions(seq_starts, seq_ends, block, T, Q)
    mask = (rows < T)[:, None] & (heads < H)[None, :]
    rate = tl.load(A + heads, mask=heads < H, other=0.0)
    steps = tl.load(dt + rows[:, None] * stride_dt + heads[None, :], mask=mask, other=0.0)
    decays = tl.load(decay + rows[:, None] * H + heads[None, :], mask=mask, other=0.0)
    d = tl.load(d_decayed_dt + rows[:, None] * H + heads[None, :], mask=mask, other=0.0) * decays
    d_decay = tl.dot(sum_mask(first, True, False, Q), d * steps, input_precision="ieee")
    d_decay += load_offsets(offsets, block, last >= block.to(tl.int64) * Q + Q, heads, H, width)
    tl.store(d_dt + rows[:, None] * H + heads[None, :], d + d_decay * rate[None, :], mask=mask)
    tl.store(dA + block.to(tl.int64) * H + heads, tl.sum(d_decay * steps, axis=0), mask=heads < H)
