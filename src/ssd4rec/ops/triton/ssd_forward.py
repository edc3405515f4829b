"""The scan's forward kernels: sums of decays, the states that spans hand on, and y."""
# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, no-untyped-def, unused-ignore"
# ruff: noqa: ANN001, ANN201 - kernels: pointers and constexprs carry no types that Python knows

from typing import no_type_check

import triton
import triton.language as tl

from ssd4rec.ops.triton.ssd_tiles import (
    comes_in,
    entering_state,
    of_events,
    pass_on,
    per_column,
    places,
    put_rows,
    reads_of,
    rows_of,
)


@triton.jit(do_not_specialize=["T"])
@no_type_check
def sum_decays(dt, A, first, last, a, T, stride_dt, H, HEADS: tl.constexpr, Q: tl.constexpr, REVERSE: tl.constexpr):
    """a_i = sum of dt_j A over the events j of the same history and chunk that are read no later than i."""
    start = tl.program_id(0).to(tl.int64) * Q
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    here, begins, _, _ = places(first, last, start, T, Q, REVERSE)
    rate = tl.load(A + heads, mask=heads < H, other=0.0)
    decays = of_events(dt, start, here, stride_dt, heads, H, Q) * rate[None, :]
    # Sums of a history's own decays, not differences of sums over the chunk, which a strong decay elsewhere would round.
    sums = tl.dot(reads_of(begins, Q, REVERSE).to(tl.float32), decays, input_precision="ieee")
    put_rows(a, sums, start, here, heads, H, Q)


@triton.jit(do_not_specialize=["T"])
@no_type_check
def hand_on(
    x, dt, a, writes, first, last, carry, T, stride_x, stride_dt, stride_writes, H,
    HG: tl.constexpr, P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, G: tl.constexpr,
    REVERSE: tl.constexpr, ADJOINT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """carry[s] = the state that comes into span s; ADJOINT: the gradient of the state that leaves it.

    The program of the span in which a history begins walks to the span in which it ends: histories wait for none but themselves.
    """
    tiles = tl.cdiv(H, HG)
    span = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    heads = tile * HG + tl.arange(0, HG)
    columns = tile * HG * P + tl.arange(0, HG * P)
    states = tl.arange(0, N)
    length = Q * G
    BACK: tl.constexpr = REVERSE != ADJOINT
    if BACK:
        leaving = span.to(tl.int64) * length
        begins = tl.load(last + leaving, mask=leaving < T, other=-1)
        ends = tl.load(first + leaving, mask=leaving < T, other=leaving)
    else:
        leaving = span.to(tl.int64) * length + length - 1
        begins = tl.load(first + leaving, mask=leaving < T, other=-1)
        ends = tl.load(last + leaving, mask=leaving < T, other=leaving)
    if begins >= 0 and begins // length == span:
        steps = (span - ends // length if BACK else ends // length - span).to(tl.int32)
        state = tl.zeros((N, HG * P), dtype=tl.float32)
        for step in range(steps):
            at = (span - step) if BACK else (span + step)
            for chunk in range(G):
                place = at.to(tl.int64) * G + (G - 1 - chunk if BACK else chunk)
                state = pass_on(
                    state, x, dt, a, writes, first, last, place * Q, T, stride_x, stride_dt, stride_writes, H, columns, heads,
                    HG, P, N, Q, REVERSE, ADJOINT, PRECISION,
                )  # fmt: skip
            target = (at - 1 if BACK else at + 1).to(tl.int64)
            offsets = states[:, None] * (H * P) + columns[None, :]
            tl.store(carry + target * N * H * P + offsets, state, mask=(columns < H * P)[None, :])


@triton.jit
@no_type_check
def read_apart(
    weights, allowed, u, sums, OPERAND: tl.constexpr,
    HG: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[Q, HG * P]: what events read of their own chunk, with a Q x Q matrix of decays for each head. Any decay."""
    read = tl.zeros((Q, HG * P), dtype=tl.float32)
    for head in range(HG):
        own = tl.sum(tl.where(tl.arange(0, HG)[None, :] == head, sums, 0.0), axis=1)
        decay = tl.exp(tl.where(allowed, own[:, None] - own[None, :], float("-inf")))
        mine = (tl.arange(0, HG * P) // P == head)[None, :]
        read += tl.dot((weights * decay).to(OPERAND), tl.where(mine, u, 0.0).to(OPERAND), input_precision=PRECISION)
    return read


@triton.jit(do_not_specialize=["T"])
@no_type_check
def read(
    x, dt, a, B, C, D, carry, first, last, y, T, stride_x, stride_dt, stride_B, stride_C, H,
    HG: tl.constexpr, P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, G: tl.constexpr, RANGE: tl.constexpr,
    REVERSE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y of one span and tile; the state stays in registers from chunk to chunk."""
    tiles = tl.cdiv(H, HG)
    span = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    heads = tile * HG + tl.arange(0, HG)
    columns = tile * HG * P + tl.arange(0, HG * P)
    begin = span.to(tl.int64) * (Q * G)
    OPERAND: tl.constexpr = x.dtype.element_ty
    skip = tl.load(D + tile * HG + tl.arange(0, HG * P) // P, mask=columns < H * P, other=0.0)
    valid = comes_in(first, last, begin, begin + Q * G, T, REVERSE)
    state = entering_state(carry, span, valid, columns, H * P, N)
    for chunk in range(G):
        start = begin + (G - 1 - chunk if REVERSE else chunk) * Q
        here, begins, enters, _ = places(first, last, start, T, Q, REVERSE)
        sums = of_events(a, start, here, H, heads, H, Q)
        values = rows_of(x, start, here, stride_x, columns, H * P, Q).to(tl.float32)
        u = values * per_column(of_events(dt, start, here, stride_dt, heads, H, Q), Q, HG, P)
        writes = rows_of(B, start, here, stride_B, tl.arange(0, N), N, Q)
        reads = rows_of(C, start, here, stride_C, tl.arange(0, N), N, Q)
        allowed = reads_of(begins, Q, REVERSE)
        weights = tl.where(allowed, tl.dot(reads, tl.trans(writes), input_precision=PRECISION), 0.0)
        lowest = tl.min(sums, axis=0)
        if tl.min(lowest, axis=0) >= -2 * RANGE:
            middle = lowest[None, :] / 2
            column = (u * per_column(tl.exp(middle - sums), Q, HG, P)).to(OPERAND)
            read_here = tl.dot(weights.to(OPERAND), column, input_precision=PRECISION)
            read_here *= per_column(tl.exp(sums - middle), Q, HG, P)
        else:
            read_here = read_apart(weights, allowed, u, sums, OPERAND, HG, P, Q, PRECISION)
        into = tl.exp(tl.where(enters[:, None], sums, float("-inf")))
        read_before = tl.dot(reads, state.to(OPERAND), input_precision=PRECISION) * per_column(into, Q, HG, P)
        out = read_here + read_before + values * skip[None, :]
        put_rows(y, out, start, here, columns, H * P, Q)
        state = pass_on(
            state, x, dt, a, B, first, last, start, T, stride_x, stride_dt, stride_B, H, columns, heads,
            HG, P, N, Q, REVERSE, False, PRECISION,
        )  # fmt: skip
