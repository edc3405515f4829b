"""The scan's backward kernels: every gradient of a span from its inputs, and of the decays from what they acted on.

The gradient of a log-decay g_k is the sum over all pairs j < k <= i of one history of the term that i read of j. Over the pairs
of one chunk it is a difference: what events from k on read, less what events from k on were read. Both sides are summed from the
*same* rounded products (`_within`), so that half-precision operands do not leave a difference of their roundings. Pairs that
begin or end in other chunks are only added up.
"""
# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, no-untyped-def, unused-ignore"
# ruff: noqa: ANN001, ANN201, ANN202, PLR0913 - kernels: pointers and constexprs carry no types that Python knows

from typing import no_type_check

import triton
import triton.language as tl

from ssd4rec.ops.triton.ssd_tiles import (
    across,
    comes_in,
    entering_state,
    of_events,
    pass_on,
    per_column,
    per_head,
    places,
    reads_of,
    rows_of,
)


@triton.jit
@no_type_check
def _within(
    weights, weights_t, allowed, allowed_t, u, dy, sums,
    OPERAND: tl.constexpr, HG: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(du, d weights, its transpose, what each event read less what was read of it) of a chunk, heads merged.

    The transposes are products of their own: a transposed result fed into a product is silently wrong on some GPUs.
    """
    middle = tl.min(sums, axis=0)[None, :] / 2
    later = per_column(tl.exp(middle - sums), Q, HG, P)
    row = (dy * per_column(tl.exp(sums - middle), Q, HG, P)).to(OPERAND)
    column = (u * later).to(OPERAND)
    read = tl.dot(weights.to(OPERAND), column, input_precision=PRECISION)
    du = tl.dot(weights_t.to(OPERAND), row, input_precision=PRECISION)
    d_weights = tl.dot(row, tl.trans(column), input_precision=PRECISION)
    d_weights_t = tl.dot(column, tl.trans(row), input_precision=PRECISION)
    net = per_head(row.to(tl.float32) * read - column.to(tl.float32) * du, Q, HG, P)
    # What is not allowed may have overflowed: it is replaced, since 0 * inf is NaN.
    return du * later, tl.where(allowed, d_weights, 0.0), tl.where(allowed_t, d_weights_t, 0.0), net


@triton.jit
@no_type_check
def _within_apart(
    weights, weights_t, allowed, allowed_t, u, dy, sums,
    OPERAND: tl.constexpr, HG: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The same with a Q x Q matrix of decays for each head: right for any decay."""
    du = tl.zeros((Q, HG * P), dtype=tl.float32)
    read = tl.zeros((Q, HG * P), dtype=tl.float32)
    d_weights = tl.zeros((Q, Q), dtype=tl.float32)
    d_weights_t = tl.zeros((Q, Q), dtype=tl.float32)
    for head in tl.static_range(HG):
        own = tl.sum(tl.where(tl.arange(0, HG)[None, :] == head, sums, 0.0), axis=1)
        decay = tl.exp(tl.where(allowed, own[:, None] - own[None, :], float("-inf")))
        decay_t = tl.exp(tl.where(allowed_t, own[None, :] - own[:, None], float("-inf")))
        mine = (tl.arange(0, HG * P) // P == head)[None, :]
        column = tl.where(mine, u, 0.0).to(OPERAND)
        row = tl.where(mine, dy, 0.0).to(OPERAND)
        read += tl.dot((weights * decay).to(OPERAND), column, input_precision=PRECISION)
        du += tl.dot((weights_t * decay_t).to(OPERAND), row, input_precision=PRECISION)
        d_weights += tl.dot(row, tl.trans(column), input_precision=PRECISION) * decay
        d_weights_t += tl.dot(column, tl.trans(row), input_precision=PRECISION) * decay_t
    net = dy.to(OPERAND).to(tl.float32) * read - u.to(OPERAND).to(tl.float32) * du
    return du, d_weights, d_weights_t, per_head(net, Q, HG, P)


@triton.jit(do_not_specialize=["T"])
@no_type_check
def read_backward(
    x, dt, a, B, C, D, dy, carry, d_carry, first, last, dx, x_du, net, left, passed, dD, dB, dC,
    T, stride_x, stride_dt, stride_B, stride_C, H, SPLITS,
    HG: tl.constexpr, P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, G: tl.constexpr, RANGE: tl.constexpr,
    REVERSE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All gradients of one span from one part of its columns.

    dx, x_du [T, H] = <x, du>, net [T, H] and left [T, H] and passed [chunks, H]: what `decays_backward` needs,
    dD [chunks, H]; dB and dC [SPLITS, T, N], to be summed over the parts.
    """
    span = tl.program_id(0) // SPLITS
    part = tl.program_id(0) % SPLITS
    tiles = tl.cdiv(H, HG)
    width = H * P
    begin = span.to(tl.int64) * (Q * G)
    states = tl.arange(0, N)
    OPERAND: tl.constexpr = x.dtype.element_ty
    valid = comes_in(first, last, begin, begin + Q * G, T, REVERSE)
    d_valid = comes_in(first, last, begin, begin + Q * G, T, not REVERSE)
    for chunk in range(G):
        place = span.to(tl.int64) * G + (G - 1 - chunk if REVERSE else chunk)
        start = place * Q
        rows, here, begins, enters, leaves = places(first, last, start, T, Q, REVERSE)
        writes = rows_of(B, rows, here, stride_B, states, N)
        reads = rows_of(C, rows, here, stride_C, states, N)
        allowed = reads_of(begins, Q, REVERSE)
        allowed_t = reads_of(begins, Q, not REVERSE)
        weights = tl.where(allowed, tl.dot(reads, tl.trans(writes), input_precision=PRECISION), 0.0)
        weights_t = tl.where(allowed_t, tl.dot(writes, tl.trans(reads), input_precision=PRECISION), 0.0)
        d_weights = tl.zeros((Q, Q), dtype=tl.float32)
        d_weights_t = tl.zeros((Q, Q), dtype=tl.float32)
        d_writes = tl.zeros((N, Q), dtype=tl.float32)
        d_reads = tl.zeros((N, Q), dtype=tl.float32)
        for tile in range(part, tiles, SPLITS):
            heads = tile * HG + tl.arange(0, HG)
            columns = tile * HG * P + tl.arange(0, HG * P)
            # The states at the chunk's two edges, walked to from the span's edges: dearer than keeping them, but no traffic.
            state = entering_state(carry, span, valid, columns, width, N)
            for step in range(chunk):
                at = (span.to(tl.int64) * G + (G - 1 - step if REVERSE else step)) * Q
                state = pass_on(
                    state, x, dt, a, B, first, last, at, T, stride_x, stride_dt, stride_B, H, columns, heads,
                    HG, P, N, Q, REVERSE, False, PRECISION,
                )  # fmt: skip
            d_state = entering_state(d_carry, span, d_valid, columns, width, N)
            for step in range(G - 1 - chunk):
                at = (span.to(tl.int64) * G + (step if REVERSE else G - 1 - step)) * Q
                d_state = pass_on(
                    d_state, dy, dt, a, C, first, last, at, T, width, stride_dt, stride_C, H, columns, heads,
                    HG, P, N, Q, REVERSE, True, PRECISION,
                )  # fmt: skip

            sums = of_events(a, rows, here, H, heads, H)
            steps = per_column(of_events(dt, rows, here, stride_dt, heads, H), Q, HG, P)
            values = rows_of(x, rows, here, stride_x, columns, width).to(tl.float32)
            grad = rows_of(dy, rows, here, width, columns, width).to(tl.float32)
            u = values * steps
            if tl.min(tl.min(sums, axis=0), axis=0) >= -2 * RANGE:
                du, more, more_t, net_here = _within(
                    weights, weights_t, allowed, allowed_t, u, grad, sums, OPERAND, HG, P, Q, PRECISION
                )
            else:
                du, more, more_t, net_here = _within_apart(
                    weights, weights_t, allowed, allowed_t, u, grad, sums, OPERAND, HG, P, Q, PRECISION
                )
            d_weights += more
            d_weights_t += more_t

            total, kept = across(a, first, last, start, T, heads, H, Q, REVERSE)
            reading = (grad * per_column(tl.exp(tl.where(enters[:, None], sums, float("-inf"))), Q, HG, P)).to(OPERAND)
            out_of = per_column(tl.exp(tl.where(leaves[:, None], total[None, :] - sums, float("-inf"))), Q, HG, P)
            leaving = (u * out_of).to(OPERAND)
            read_before = tl.dot(reads, state.to(OPERAND), input_precision=PRECISION)
            du_after = tl.dot(writes, d_state.to(OPERAND), input_precision=PRECISION)
            d_reads += tl.dot(state.to(OPERAND), tl.trans(reading), input_precision=PRECISION)
            d_writes += tl.dot(d_state.to(OPERAND), tl.trans(leaving), input_precision=PRECISION)
            net_here += per_head(reading.to(tl.float32) * read_before, Q, HG, P)
            left_here = per_head(leaving.to(tl.float32) * du_after, Q, HG, P)
            du += du_after * out_of
            handed = tl.sum(tl.reshape(tl.sum(state * d_state, axis=0), (HG, P)), axis=1) * kept

            skip = tl.load(D + columns // P, mask=columns < width, other=0.0)
            d_values = (du * steps + grad * skip[None, :]).to(OPERAND)
            tl.store(dx + rows[:, None] * width + columns[None, :], d_values, mask=here[:, None] & (columns < width)[None, :])
            of_head = rows[:, None] * H + heads[None, :]
            inside = here[:, None] & (heads < H)[None, :]
            tl.store(x_du + of_head, per_head(values * du, Q, HG, P), mask=inside)
            tl.store(net + of_head, net_here, mask=inside)
            tl.store(left + of_head, left_here, mask=inside)
            tl.store(passed + place * H + heads, handed, mask=heads < H)
            tl.store(dD + place * H + heads, tl.sum(per_head(values * grad, Q, HG, P), axis=0), mask=heads < H)

        d_reads += tl.dot(tl.trans(writes), d_weights_t.to(OPERAND), input_precision=PRECISION)
        d_writes += tl.dot(tl.trans(reads), d_weights.to(OPERAND), input_precision=PRECISION)
        event = (part.to(tl.int64) * T + rows[None, :]) * N + states[:, None]
        tl.store(dC + event, d_reads, mask=here[None, :])
        tl.store(dB + event, d_writes, mask=here[None, :])


@triton.jit(do_not_specialize=["T"])
@no_type_check
def decays_backward(
    dt, A, x_du, net, left, passed, first, last, d_dt, dA, T, stride_dt, H,
    HEADS: tl.constexpr, Q: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """D dt [T, H] and dA [chunks, H], to be summed over the chunks."""
    chunk = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    rows, here, begins, _, leaves = places(first, last, chunk * Q, T, Q, REVERSE)
    rate = tl.load(A + heads, mask=heads < H, other=0.0)
    read_from_here = reads_of(begins, Q, not REVERSE).to(tl.float32)  # the row's event, and those that are read after it
    read_before = 1.0 - read_from_here
    read_before = tl.where(begins[:, None] == begins[None, :], read_before, 0.0)
    d_decay = tl.dot(read_from_here, of_events(net, rows, here, H, heads, H), input_precision="ieee")
    handed = tl.load(passed + chunk * H + heads, mask=heads < H, other=0.0)
    beyond = tl.dot(read_before, of_events(left, rows, here, H, heads, H), input_precision="ieee") + handed[None, :]
    d_decay += tl.where(leaves[:, None], beyond, 0.0)
    steps = of_events(dt, rows, here, stride_dt, heads, H)
    direct = of_events(x_du, rows, here, H, heads, H)
    inside = here[:, None] & (heads < H)[None, :]
    tl.store(d_dt + rows[:, None] * H + heads[None, :], direct + d_decay * rate[None, :], mask=inside)
    tl.store(dA + chunk * H + heads, tl.sum(d_decay * steps, axis=0), mask=heads < H)
