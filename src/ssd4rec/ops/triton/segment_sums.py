"""Cumulative sums inside histories: blocks of Q positions by a product with a matrix of ones, then a carry from block to block.

A block's *total* is the sum over its events of the history that leaves it (reversed: of the one that came into it); `carry_on`
adds the totals of the blocks of a history, so that no history waits for another and no sum is the difference of two longer ones.
"""
# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, no-untyped-def, unused-ignore"
# ruff: noqa: ANN001, ANN201 - kernels: pointers and constexprs carry no types that Python knows

from typing import no_type_check

import triton
import triton.language as tl

from ssd4rec.ops.triton.common import NO_EVENT, places_of


@triton.jit
@no_type_check
def leaving(begins, ends, start, Q: tl.constexpr):
    """[Q]: is the row of the history that goes on after the block? Of no other history is a total asked for."""
    goes_on = tl.max(ends, axis=0) >= start + Q
    return goes_on & (begins == tl.max(begins, axis=0))


@triton.jit
@no_type_check
def ones(begins, AFTER: tl.constexpr, SELF: tl.constexpr, Q: tl.constexpr):
    """[Q, Q] float32: 1 where the column's event is of the row's history and not later (AFTER: not earlier) than it."""
    place = tl.arange(0, Q)
    if AFTER:
        counts = place[None, :] >= place[:, None] + (0 if SELF else 1)
    else:
        counts = place[None, :] <= place[:, None] - (0 if SELF else 1)
    return (counts & (begins[:, None] == begins[None, :])).to(tl.float32)


@triton.jit
@no_type_check
def carried(carry, block, over, columns, of, width):
    """[Q, columns]: what the blocks before (after) this one hand to the rows that `over` names, 0 to others; columns < of."""
    mask = over[:, None] & (columns < of)[None, :]
    at = block.to(tl.int64) * width + columns
    return tl.load(tl.broadcast_to((carry + at)[None, :], mask.shape), mask=mask, other=0.0)


@triton.jit(do_not_specialize=["T"])
@no_type_check
def carry_on(totals, carry, first, last, T, width, COLUMNS: tl.constexpr, Q: tl.constexpr, REVERSE: tl.constexpr):
    """carry[b] [blocks, width] = the totals, summed, of the blocks before b (REVERSE: after b) of the history over b's edge.

    The program of the block in which a history begins (REVERSE: ends) walks to that in which it ends (begins).
    """
    tiles = tl.cdiv(width, COLUMNS)
    block = (tl.program_id(0) // tiles).to(tl.int64)
    columns = (tl.program_id(0) % tiles) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < width
    start = block * Q
    if REVERSE:
        begins = tl.load(first + start)
        starts_here = (begins < start) & (tl.load(last + start) < start + Q)
        steps = block - begins // Q
    else:
        end = start + Q - 1
        ends = tl.load(last + end, mask=end < T, other=NO_EVENT)
        starts_here = (ends > end) & (tl.load(first + end, mask=end < T, other=NO_EVENT) >= start)
        steps = ends // Q - block
    if starts_here:
        total = tl.zeros((COLUMNS,), dtype=tl.float32)
        for step in range(steps.to(tl.int32)):
            at = block - step if REVERSE else block + step
            total += tl.load(totals + at * width + columns, mask=inside, other=0.0)
            tl.store(carry + (at - 1 if REVERSE else at + 1) * width + columns, total, mask=inside)


@triton.jit(do_not_specialize=["T"])
@no_type_check
def decay_totals(dt, A, first, last, totals, T, stride_dt, H, HEADS: tl.constexpr, Q: tl.constexpr):
    """totals [blocks, H] of dt A."""
    block = tl.program_id(0)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    rows, begins, ends = places_of(first, last, block, T, Q)
    mask = leaving(begins, ends, block.to(tl.int64) * Q, Q)[:, None] & (heads < H)[None, :]
    decays = tl.load(dt + rows[:, None] * stride_dt + heads[None, :], mask=mask, other=0.0)
    rate = tl.load(A + heads, mask=heads < H, other=0.0)
    tl.store(totals + block.to(tl.int64) * H + heads, tl.sum(decays * rate[None, :], axis=0), mask=heads < H)


@triton.jit(do_not_specialize=["T"])
@no_type_check
def decays_before(dt, A, first, last, carry, past, T, stride_dt, H, HEADS: tl.constexpr, Q: tl.constexpr):
    """past [T, H] = exp(S_{s-1}): what the events before s leave of its history's beginning."""
    block = tl.program_id(0)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    rows, begins, ends = places_of(first, last, block, T, Q)
    mask = (rows < T)[:, None] & (heads < H)[None, :]
    rate = tl.load(A + heads, mask=heads < H, other=0.0)
    decays = tl.load(dt + rows[:, None] * stride_dt + heads[None, :], mask=mask, other=0.0) * rate[None, :]
    sums = tl.dot(ones(begins, False, False, Q), decays, input_precision="ieee")
    sums += carried(carry, block, (ends >= 0) & (begins < block.to(tl.int64) * Q), heads, H, H)
    tl.store(past + rows[:, None] * H + heads[None, :], tl.exp(sums), mask=mask)


@triton.jit(do_not_specialize=["T"])
@no_type_check
def decays_before_backward(
    dt, A, first, last, past, d_strength, carry, d_dt, dA, T, stride_dt, H, width,
    HEADS: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """d_dt [T, H] and dA [blocks, H], to be summed, of strength = dt past; carry [blocks, width >= H]: of d_strength strength."""
    block = tl.program_id(0)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    rows, begins, ends = places_of(first, last, block, T, Q)
    mask = (rows < T)[:, None] & (heads < H)[None, :]
    rate = tl.load(A + heads, mask=heads < H, other=0.0)
    steps = tl.load(dt + rows[:, None] * stride_dt + heads[None, :], mask=mask, other=0.0)
    kept = tl.load(past + rows[:, None] * H + heads[None, :], mask=mask, other=0.0)
    d = tl.load(d_strength + rows[:, None] * H + heads[None, :], mask=mask, other=0.0) * kept
    d_decay = tl.dot(ones(begins, True, False, Q), d * steps, input_precision="ieee")
    d_decay += carried(carry, block, ends >= block.to(tl.int64) * Q + Q, heads, H, width)
    tl.store(d_dt + rows[:, None] * H + heads[None, :], d + d_decay * rate[None, :], mask=mask)
    tl.store(dA + block.to(tl.int64) * H + heads, tl.sum(d_decay * steps, axis=0), mask=heads < H)
