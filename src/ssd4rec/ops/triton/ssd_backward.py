"""The scan's backward kernels: every gradient of a span from its inputs, and of the decays from what they acted on.

The gradient of a log-decay g_k is the sum over all pairs j < k <= i of one history of the term that i read of j. Over the pairs
of one chunk it is a difference: what events from k on read, less what events from k on were read. Both sides are summed from the
*same* rounded products, in `reads_backward` and in `writes_backward`, so that half-precision operands do not leave a difference
of their roundings. Pairs that begin or end in other chunks are only added up.

What events read (dC) and what was read of them (dx, dB) are two kernels: together they need more registers than there are. Each
transpose is a product of its own: a transposed result fed into a product is silently wrong on some GPUs.
"""
# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, no-untyped-def, unused-ignore"
# ruff: noqa: ANN001, ANN201 - kernels: pointers and constexprs carry no types that Python knows

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
    put_rows,
    reads_of,
    rows_of,
)


@triton.jit
@no_type_check
def factors(sums, Q: tl.constexpr, HG: tl.constexpr, P: tl.constexpr):
    """(of the event that reads, of the event that is read) [Q, HG * P]: their product is the decay between the two."""
    middle = tl.min(sums, axis=0)[None, :] / 2
    return per_column(tl.exp(sums - middle), Q, HG, P), per_column(tl.exp(middle - sums), Q, HG, P)


@triton.jit
@no_type_check
def of_one_head(values, head, OPERAND: tl.constexpr, HG: tl.constexpr, P: tl.constexpr):
    """[Q, HG * P] with the columns of the other heads zero, as an operand."""
    mine = (tl.arange(0, HG * P) // P == head)[None, :]
    return tl.where(mine, values, 0.0).to(OPERAND)


@triton.jit
@no_type_check
def decay_of_head(sums, head, allowed, HG: tl.constexpr):
    """[Q, Q]: exp(a_i - a_j) of one head where event i reads event j, else 0. Any decay."""
    own = tl.sum(tl.where(tl.arange(0, HG)[None, :] == head, sums, 0.0), axis=1)
    return tl.exp(tl.where(allowed, own[:, None] - own[None, :], float("-inf")))


@triton.jit
@no_type_check
def decay_of_head_t(sums, head, allowed_t, HG: tl.constexpr):
    """`decay_of_head` transposed."""
    own = tl.sum(tl.where(tl.arange(0, HG)[None, :] == head, sums, 0.0), axis=1)
    return tl.exp(tl.where(allowed_t, own[None, :] - own[:, None], float("-inf")))


@triton.jit(do_not_specialize=["T"])
@no_type_check
def reads_backward(
    x, dt, a, B, C, dy, carry, first, last, net, dC, T, stride_x, stride_dt, stride_B, stride_C, H, SPLITS,
    HG: tl.constexpr, P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, G: tl.constexpr, RANGE: tl.constexpr,
    REVERSE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What the events of one span read: dC [SPLITS, T, N], to be summed, and <dy, y> of each head in `net` [T, H]."""
    span = tl.program_id(0) // SPLITS
    part = tl.program_id(0) % SPLITS
    tiles = tl.cdiv(H, HG)
    width = H * P
    begin = span.to(tl.int64) * (Q * G)
    states = tl.arange(0, N)
    OPERAND: tl.constexpr = x.dtype.element_ty
    valid = comes_in(first, last, begin, begin + Q * G, T, REVERSE)
    for chunk in range(G):
        start = begin + (G - 1 - chunk if REVERSE else chunk) * Q
        here, begins, enters, _ = places(first, last, start, T, Q, REVERSE)
        writes = rows_of(B, start, here, stride_B, states, N, Q)
        reads = rows_of(C, start, here, stride_C, states, N, Q)
        allowed = reads_of(begins, Q, REVERSE)
        allowed_t = reads_of(begins, Q, not REVERSE)
        weights = tl.where(allowed, tl.dot(reads, tl.trans(writes), input_precision=PRECISION), 0.0)
        d_weights_t = tl.zeros((Q, Q), dtype=tl.float32)
        d_reads = tl.zeros((N, Q), dtype=tl.float32)
        for tile in range(part, tiles, SPLITS):
            heads = tile * HG + tl.arange(0, HG)
            columns = tile * HG * P + tl.arange(0, HG * P)
            # The state at the chunk's edge, walked to from the span's: dearer than keeping it, but no traffic.
            state = entering_state(carry, span, valid, columns, width, N)
            for step in range(chunk):
                at = begin + (G - 1 - step if REVERSE else step) * Q
                state = pass_on(
                    state, x, dt, a, B, first, last, at, T, stride_x, stride_dt, stride_B, H, columns, heads,
                    HG, P, N, Q, REVERSE, False, PRECISION,
                )  # fmt: skip
            sums = of_events(a, start, here, H, heads, H, Q)
            grad = rows_of(dy, start, here, width, columns, width, Q).to(tl.float32)
            u = rows_of(x, start, here, stride_x, columns, width, Q).to(tl.float32)
            u *= per_column(of_events(dt, start, here, stride_dt, heads, H, Q), Q, HG, P)
            if tl.min(tl.min(sums, axis=0), axis=0) >= -2 * RANGE:
                of_row, of_column = factors(sums, Q, HG, P)
                row = (grad * of_row).to(OPERAND)
                column = (u * of_column).to(OPERAND)
                read = row.to(tl.float32) * tl.dot(weights.to(OPERAND), column, input_precision=PRECISION)
                more = tl.dot(column, tl.trans(row), input_precision=PRECISION)
                # What is not allowed may have overflowed: it is replaced, since 0 * inf is NaN.
                d_weights_t += tl.where(allowed_t, more, 0.0)
            else:
                read = tl.zeros((Q, HG * P), dtype=tl.float32)
                for head in range(HG):
                    row = of_one_head(grad, head, OPERAND, HG, P)
                    column = of_one_head(u, head, OPERAND, HG, P)
                    decayed = (weights * decay_of_head(sums, head, allowed, HG)).to(OPERAND)
                    read += row.to(tl.float32) * tl.dot(decayed, column, input_precision=PRECISION)
                    more = tl.dot(column, tl.trans(row), input_precision=PRECISION)
                    d_weights_t += more * decay_of_head_t(sums, head, allowed_t, HG)
            into = per_column(tl.exp(tl.where(enters[:, None], sums, float("-inf"))), Q, HG, P)
            row = (grad * into).to(OPERAND)
            read += row.to(tl.float32) * tl.dot(reads, state.to(OPERAND), input_precision=PRECISION)
            d_reads += tl.dot(state.to(OPERAND), tl.trans(row), input_precision=PRECISION)
            put_rows(net, per_head(read, Q, HG, P), start, here, heads, H, Q)
        d_reads += tl.dot(tl.trans(writes), d_weights_t.to(OPERAND), input_precision=PRECISION)
        event = tl.arange(0, Q)[None, :] * N + states[:, None]
        tl.store(dC + (part.to(tl.int64) * T + start) * N + event, d_reads, mask=here[None, :])


@triton.jit(do_not_specialize=["T"])
@no_type_check
def writes_backward(
    x, dt, a, B, C, D, dy, d_carry, first, last, dx, x_du, net, left, dD, dB,
    T, stride_x, stride_dt, stride_B, stride_C, H, SPLITS,
    HG: tl.constexpr, P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, G: tl.constexpr, RANGE: tl.constexpr,
    REVERSE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What was read of the events of one span: dx, dB [SPLITS, T, N] and dD [chunks, H], to be summed, x_du [T, H] = <x, du>.

    From `net` [T, H] it takes <u, du> inside the chunk; `left` [T, H] is <u, du> of what later chunks read.
    """
    span = tl.program_id(0) // SPLITS
    part = tl.program_id(0) % SPLITS
    tiles = tl.cdiv(H, HG)
    width = H * P
    begin = span.to(tl.int64) * (Q * G)
    states = tl.arange(0, N)
    OPERAND: tl.constexpr = x.dtype.element_ty
    valid = comes_in(first, last, begin, begin + Q * G, T, not REVERSE)
    for chunk in range(G):  # against the direction of reading
        start = begin + (chunk if REVERSE else G - 1 - chunk) * Q
        here, begins, _, leaves = places(first, last, start, T, Q, REVERSE)
        writes = rows_of(B, start, here, stride_B, states, N, Q)
        reads = rows_of(C, start, here, stride_C, states, N, Q)
        allowed = reads_of(begins, Q, REVERSE)
        allowed_t = reads_of(begins, Q, not REVERSE)
        weights_t = tl.where(allowed_t, tl.dot(writes, tl.trans(reads), input_precision=PRECISION), 0.0)
        d_weights = tl.zeros((Q, Q), dtype=tl.float32)
        d_writes = tl.zeros((N, Q), dtype=tl.float32)
        for tile in range(part, tiles, SPLITS):
            heads = tile * HG + tl.arange(0, HG)
            columns = tile * HG * P + tl.arange(0, HG * P)
            d_state = entering_state(d_carry, span, valid, columns, width, N)
            for step in range(chunk):
                at = begin + (step if REVERSE else G - 1 - step) * Q
                d_state = pass_on(
                    d_state, dy, dt, a, C, first, last, at, T, width, stride_dt, stride_C, H, columns, heads,
                    HG, P, N, Q, REVERSE, True, PRECISION,
                )  # fmt: skip
            sums = of_events(a, start, here, H, heads, H, Q)
            grad = rows_of(dy, start, here, width, columns, width, Q).to(tl.float32)
            values = rows_of(x, start, here, stride_x, columns, width, Q).to(tl.float32)
            steps = per_column(of_events(dt, start, here, stride_dt, heads, H, Q), Q, HG, P)
            u = values * steps
            if tl.min(tl.min(sums, axis=0), axis=0) >= -2 * RANGE:
                of_row, of_column = factors(sums, Q, HG, P)
                row = (grad * of_row).to(OPERAND)
                column = (u * of_column).to(OPERAND)
                du = tl.dot(weights_t.to(OPERAND), row, input_precision=PRECISION)
                given = column.to(tl.float32) * du
                du *= of_column
                d_weights += tl.where(allowed, tl.dot(row, tl.trans(column), input_precision=PRECISION), 0.0)
            else:
                du = tl.zeros((Q, HG * P), dtype=tl.float32)
                for head in range(HG):
                    row = of_one_head(grad, head, OPERAND, HG, P)
                    column = of_one_head(u, head, OPERAND, HG, P)
                    decayed = (weights_t * decay_of_head_t(sums, head, allowed_t, HG)).to(OPERAND)
                    du += tl.dot(decayed, row, input_precision=PRECISION)
                    more = tl.dot(row, tl.trans(column), input_precision=PRECISION)
                    d_weights += more * decay_of_head(sums, head, allowed, HG)
                given = u.to(OPERAND).to(tl.float32) * du
            read = of_events(net, start, here, H, heads, H, Q)
            put_rows(net, read - per_head(given, Q, HG, P), start, here, heads, H, Q)

            total, _kept = across(a, first, last, start, T, heads, H, Q, REVERSE)
            out_of = per_column(tl.exp(tl.where(leaves[:, None], total[None, :] - sums, float("-inf"))), Q, HG, P)
            column = (u * out_of).to(OPERAND)
            later = tl.dot(writes, d_state.to(OPERAND), input_precision=PRECISION)
            d_writes += tl.dot(d_state.to(OPERAND), tl.trans(column), input_precision=PRECISION)
            put_rows(left, per_head(column.to(tl.float32) * later, Q, HG, P), start, here, heads, H, Q)
            du += later * out_of

            skip = tl.load(D + columns // P, mask=columns < width, other=0.0)
            put_rows(dx, du * steps + grad * skip[None, :], start, here, columns, width, Q)
            put_rows(x_du, per_head(values * du, Q, HG, P), start, here, heads, H, Q)
            tl.store(dD + (start // Q) * H + heads, tl.sum(per_head(values * grad, Q, HG, P), axis=0), mask=heads < H)
        d_writes += tl.dot(tl.trans(reads), d_weights.to(OPERAND), input_precision=PRECISION)
        event = tl.arange(0, Q)[None, :] * N + states[:, None]
        tl.store(dB + (part.to(tl.int64) * T + start) * N + event, d_writes, mask=here[None, :])


@triton.jit(do_not_specialize=["T"])
@no_type_check
def pass_backward(
    x, dt, a, B, C, dy, carry, d_carry, first, last, passed, T, stride_x, stride_dt, stride_B, stride_C, H,
    HG: tl.constexpr, P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, G: tl.constexpr,
    REVERSE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """passed [chunks, H]: what later chunks read of earlier ones through a chunk that one history fills; else 0."""
    tiles = tl.cdiv(H, HG)
    place = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    heads = tile * HG + tl.arange(0, HG)
    columns = tile * HG * P + tl.arange(0, HG * P)
    start = place * Q
    here = start + Q <= T
    begins = tl.load(first + start, mask=here, other=start)
    ends = tl.load(last + start, mask=here, other=start)
    handed = tl.zeros((HG,), dtype=tl.float32)
    if (begins < start) & (ends >= start + Q):
        span = place // G
        begin = span * G * Q
        chunk = (place - span * G).to(tl.int32)
        before = G - 1 - chunk if REVERSE else chunk  # chunks of the span that are read before this one
        valid = comes_in(first, last, begin, begin + Q * G, T, REVERSE)
        state = entering_state(carry, span, valid, columns, H * P, N)
        for step in range(before):
            at = begin + (G - 1 - step if REVERSE else step) * Q
            state = pass_on(
                state, x, dt, a, B, first, last, at, T, stride_x, stride_dt, stride_B, H, columns, heads,
                HG, P, N, Q, REVERSE, False, PRECISION,
            )  # fmt: skip
        valid = comes_in(first, last, begin, begin + Q * G, T, not REVERSE)
        d_state = entering_state(d_carry, span, valid, columns, H * P, N)
        for step in range(G - 1 - before):
            at = begin + (step if REVERSE else G - 1 - step) * Q
            d_state = pass_on(
                d_state, dy, dt, a, C, first, last, at, T, H * P, stride_dt, stride_C, H, columns, heads,
                HG, P, N, Q, REVERSE, True, PRECISION,
            )  # fmt: skip
        _, kept = across(a, first, last, start, T, heads, H, Q, REVERSE)
        handed = tl.sum(tl.reshape(tl.sum(state * d_state, axis=0), (HG, P)), axis=1) * kept
    tl.store(passed + place * H + heads, handed, mask=heads < H)


@triton.jit(do_not_specialize=["T"])
@no_type_check
def decays_backward(
    dt, A, x_du, net, left, passed, first, last, d_dt, dA, T, stride_dt, H,
    HEADS: tl.constexpr, Q: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """d_dt [T, H] and dA [chunks, H], to be summed over the chunks."""
    chunk = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    start = chunk * Q
    here, begins, _, leaves = places(first, last, start, T, Q, REVERSE)
    rate = tl.load(A + heads, mask=heads < H, other=0.0)
    read_from_here = reads_of(begins, Q, not REVERSE).to(tl.float32)  # the row's event, and those that are read after it
    read_before = 1.0 - read_from_here
    read_before = tl.where(begins[:, None] == begins[None, :], read_before, 0.0)
    d_decay = tl.dot(read_from_here, of_events(net, start, here, H, heads, H, Q), input_precision="ieee")
    handed = tl.load(passed + chunk * H + heads, mask=heads < H, other=0.0)
    beyond = tl.dot(read_before, of_events(left, start, here, H, heads, H, Q), input_precision="ieee") + handed[None, :]
    d_decay += tl.where(leaves[:, None], beyond, 0.0)
    steps = of_events(dt, start, here, stride_dt, heads, H, Q)
    direct = of_events(x_du, start, here, H, heads, H, Q)
    put_rows(d_dt, direct + d_decay * rate[None, :], start, here, heads, H, Q)
    tl.store(dA + chunk * H + heads, tl.sum(d_decay * steps, axis=0), mask=heads < H)
