"""Backward kernels of the scan.

The gradient of the log decay g_k is the sum of the terms of y_i from j over all pairs j < k <= i of one sequence. Within a chunk
it is a difference: the terms whose output is at k or later, minus the terms whose input is at k or later. Both are summed from
the *same* rounded products, in `output_backward` and `input_backward`, so that rounding in half precision cancels. Pairs from
different chunks are only added.

The gradients at the output (dC) and at the input (dx, dB) are separate kernels because together they need too many registers.
Transposed results are recomputed as separate products: a transposed result used as an operand is silently wrong on some GPUs.
"""

import triton
import triton.language as tl

from ssd4rec.ops.triton.common import expand_heads, head_tile, sum_heads
from ssd4rec.ops.triton.ssd_forward import (
    advance_state,
    causal_mask,
    chunk_decay,
    chunk_positions,
    decay_factors,
    head_decay,
    is_entered,
    load_heads,
    load_rows,
    load_state,
    select_head,
    store_rows,
)


@triton.jit
def head_decay_t(sums, head, causal_t, HG: tl.constexpr):
    """The transpose of `head_decay`."""
    head_sums = tl.sum(tl.where(tl.arange(0, HG)[None, :] == head, sums, 0.0), axis=1)
    return tl.exp(tl.where(causal_t, head_sums[None, :] - head_sums[:, None], float("-inf")))


@triton.jit(do_not_specialize=["T"])
def output_backward(
    x, dt, a, B, C, dy, states, seq_starts, seq_ends, net, dC, T, stride_x, stride_dt, stride_B, stride_C, H, SPLITS,
    HG: tl.constexpr, P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, G: tl.constexpr, RANGE: tl.constexpr,
    REVERSE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Store dC [SPLITS, T, N], to be summed, and <dy, y> of each head in `net` [T, H], for one span."""
    span = tl.program_id(0) // SPLITS
    split = tl.program_id(0) % SPLITS
    tiles = tl.cdiv(H, HG)
    width = H * P
    span_start = span.to(tl.int64) * (Q * G)
    state_dims = tl.arange(0, N)
    OPERAND: tl.constexpr = x.dtype.element_ty
    valid = is_entered(seq_starts, seq_ends, span_start, span_start + Q * G, T, REVERSE)
    for chunk in range(G):
        start = span_start + (G - 1 - chunk if REVERSE else chunk) * Q
        in_bounds, first, entering, _ = chunk_positions(seq_starts, seq_ends, start, T, Q, REVERSE)
        B_tile = load_rows(B, start, in_bounds, stride_B, state_dims, N, Q)
        C_tile = load_rows(C, start, in_bounds, stride_C, state_dims, N, Q)
        causal = causal_mask(first, Q, REVERSE)
        causal_t = causal_mask(first, Q, not REVERSE)
        weights = tl.where(causal, tl.dot(C_tile, tl.trans(B_tile), input_precision=PRECISION), 0.0)
        d_weights_t = tl.zeros((Q, Q), dtype=tl.float32)
        dC_tile = tl.zeros((N, Q), dtype=tl.float32)
        for tile in range(split, tiles, SPLITS):
            heads = tile * HG + tl.arange(0, HG)
            columns = tile * HG * P + tl.arange(0, HG * P)
            # Recompute the state at the chunk from the state of the span: more arithmetic, but no memory traffic.
            state = load_state(states, span, valid, columns, width, N)
            for step in range(chunk):
                at = span_start + (G - 1 - step if REVERSE else step) * Q
                state = advance_state(
                    state, x, dt, a, B, seq_starts, seq_ends, at, T, stride_x, stride_dt, stride_B, H, columns, heads,
                    HG, P, N, Q, REVERSE, False, PRECISION,
                )  # fmt: skip
            sums = load_heads(a, start, in_bounds, H, heads, H, Q)
            grad = load_rows(dy, start, in_bounds, width, columns, width, Q).to(tl.float32)
            u = load_rows(x, start, in_bounds, stride_x, columns, width, Q).to(tl.float32)
            u *= expand_heads(load_heads(dt, start, in_bounds, stride_dt, heads, H, Q), Q, HG, P)
            if tl.min(tl.min(sums, axis=0), axis=0) >= -2 * RANGE:
                row_decay, column_decay = decay_factors(sums, Q, HG, P)
                row = (grad * row_decay).to(OPERAND)
                column = (u * column_decay).to(OPERAND)
                dy_y = row.to(tl.float32) * tl.dot(weights.to(OPERAND), column, input_precision=PRECISION)
                product = tl.dot(column, tl.trans(row), input_precision=PRECISION)
                # Masked entries may have overflowed and are replaced, because 0 * inf is NaN.
                d_weights_t += tl.where(causal_t, product, 0.0)
            else:
                dy_y = tl.zeros((Q, HG * P), dtype=tl.float32)
                for head in range(HG):
                    row = select_head(grad, head, OPERAND, HG, P)
                    column = select_head(u, head, OPERAND, HG, P)
                    decayed = (weights * head_decay(sums, head, causal, HG)).to(OPERAND)
                    dy_y += row.to(tl.float32) * tl.dot(decayed, column, input_precision=PRECISION)
                    product = tl.dot(column, tl.trans(row), input_precision=PRECISION)
                    d_weights_t += product * head_decay_t(sums, head, causal_t, HG)
            entry_decay = expand_heads(tl.exp(tl.where(entering[:, None], sums, float("-inf"))), Q, HG, P)
            row = (grad * entry_decay).to(OPERAND)
            dy_y += row.to(tl.float32) * tl.dot(C_tile, state.to(OPERAND), input_precision=PRECISION)
            dC_tile += tl.dot(state.to(OPERAND), tl.trans(row), input_precision=PRECISION)
            store_rows(net, sum_heads(dy_y, Q, HG, P), start, in_bounds, heads, H, Q)
        dC_tile += tl.dot(tl.trans(B_tile), d_weights_t.to(OPERAND), input_precision=PRECISION)
        offsets = tl.arange(0, Q)[None, :] * N + state_dims[:, None]
        tl.store(dC + (split.to(tl.int64) * T + start) * N + offsets, dC_tile, mask=in_bounds[None, :])


@triton.jit(do_not_specialize=["T"])
def input_backward(
    x, dt, a, B, C, D, dy, d_states, seq_starts, seq_ends, dx, x_du, net, outgoing, dD, dB,
    T, stride_x, stride_dt, stride_B, stride_C, H, SPLITS,
    HG: tl.constexpr, P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, G: tl.constexpr, RANGE: tl.constexpr,
    REVERSE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Store dx, x_du [T, H] = <x, du>, and dB [SPLITS, T, N] and dD [chunks, H] to be summed, for one span.

    Subtracts <u, du> within the chunk from `net` [T, H]; `outgoing` [T, H] is <u, du> through later chunks.
    """
    span = tl.program_id(0) // SPLITS
    split = tl.program_id(0) % SPLITS
    tiles = tl.cdiv(H, HG)
    width = H * P
    span_start = span.to(tl.int64) * (Q * G)
    state_dims = tl.arange(0, N)
    OPERAND: tl.constexpr = x.dtype.element_ty
    valid = is_entered(seq_starts, seq_ends, span_start, span_start + Q * G, T, not REVERSE)
    for chunk in range(G):  # against the direction of the scan
        start = span_start + (chunk if REVERSE else G - 1 - chunk) * Q
        in_bounds, first, _, leaving = chunk_positions(seq_starts, seq_ends, start, T, Q, REVERSE)
        B_tile = load_rows(B, start, in_bounds, stride_B, state_dims, N, Q)
        C_tile = load_rows(C, start, in_bounds, stride_C, state_dims, N, Q)
        causal = causal_mask(first, Q, REVERSE)
        causal_t = causal_mask(first, Q, not REVERSE)
        weights_t = tl.where(causal_t, tl.dot(B_tile, tl.trans(C_tile), input_precision=PRECISION), 0.0)
        d_weights = tl.zeros((Q, Q), dtype=tl.float32)
        dB_tile = tl.zeros((N, Q), dtype=tl.float32)
        for tile in range(split, tiles, SPLITS):
            heads = tile * HG + tl.arange(0, HG)
            columns = tile * HG * P + tl.arange(0, HG * P)
            d_state = load_state(d_states, span, valid, columns, width, N)
            for step in range(chunk):
                at = span_start + (step if REVERSE else G - 1 - step) * Q
                d_state = advance_state(
                    d_state, dy, dt, a, C, seq_starts, seq_ends, at, T, width, stride_dt, stride_C, H, columns, heads,
                    HG, P, N, Q, REVERSE, True, PRECISION,
                )  # fmt: skip
            sums = load_heads(a, start, in_bounds, H, heads, H, Q)
            grad = load_rows(dy, start, in_bounds, width, columns, width, Q).to(tl.float32)
            values = load_rows(x, start, in_bounds, stride_x, columns, width, Q).to(tl.float32)
            steps = expand_heads(load_heads(dt, start, in_bounds, stride_dt, heads, H, Q), Q, HG, P)
            u = values * steps
            if tl.min(tl.min(sums, axis=0), axis=0) >= -2 * RANGE:
                row_decay, column_decay = decay_factors(sums, Q, HG, P)
                row = (grad * row_decay).to(OPERAND)
                column = (u * column_decay).to(OPERAND)
                du = tl.dot(weights_t.to(OPERAND), row, input_precision=PRECISION)
                u_du = column.to(tl.float32) * du
                du *= column_decay
                d_weights += tl.where(causal, tl.dot(row, tl.trans(column), input_precision=PRECISION), 0.0)
            else:
                du = tl.zeros((Q, HG * P), dtype=tl.float32)
                for head in range(HG):
                    row = select_head(grad, head, OPERAND, HG, P)
                    column = select_head(u, head, OPERAND, HG, P)
                    decayed = (weights_t * head_decay_t(sums, head, causal_t, HG)).to(OPERAND)
                    du += tl.dot(decayed, row, input_precision=PRECISION)
                    product = tl.dot(row, tl.trans(column), input_precision=PRECISION)
                    d_weights += product * head_decay(sums, head, causal, HG)
                u_du = u.to(OPERAND).to(tl.float32) * du
            dy_y = load_heads(net, start, in_bounds, H, heads, H, Q)
            store_rows(net, dy_y - sum_heads(u_du, Q, HG, P), start, in_bounds, heads, H, Q)

            total, _decay = chunk_decay(a, seq_starts, seq_ends, start, T, heads, H, Q, REVERSE)
            exit_decay = expand_heads(tl.exp(tl.where(leaving[:, None], total[None, :] - sums, float("-inf"))), Q, HG, P)
            column = (u * exit_decay).to(OPERAND)
            later = tl.dot(B_tile, d_state.to(OPERAND), input_precision=PRECISION)
            dB_tile += tl.dot(d_state.to(OPERAND), tl.trans(column), input_precision=PRECISION)
            store_rows(outgoing, sum_heads(column.to(tl.float32) * later, Q, HG, P), start, in_bounds, heads, H, Q)
            du += later * exit_decay

            skip = tl.load(D + columns // P, mask=columns < width, other=0.0)
            store_rows(dx, du * steps + grad * skip[None, :], start, in_bounds, columns, width, Q)
            store_rows(x_du, sum_heads(values * du, Q, HG, P), start, in_bounds, heads, H, Q)
            tl.store(dD + (start // Q) * H + heads, tl.sum(sum_heads(values * grad, Q, HG, P), axis=0), mask=heads < H)
        dB_tile += tl.dot(tl.trans(C_tile), d_weights.to(OPERAND), input_precision=PRECISION)
        offsets = tl.arange(0, Q)[None, :] * N + state_dims[:, None]
        tl.store(dB + (split.to(tl.int64) * T + start) * N + offsets, dB_tile, mask=in_bounds[None, :])


@triton.jit(do_not_specialize=["T"])
def state_decay_backward(
    x, dt, a, B, C, dy, states, d_states, seq_starts, seq_ends, through, T, stride_x, stride_dt, stride_B, stride_C, H,
    HG: tl.constexpr, P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, G: tl.constexpr,
    REVERSE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Store through [chunks, H]: <state, d_state> passed through a chunk that one sequence fills, else 0."""
    index, _tile, heads, columns = head_tile(H, HG, P)
    index = index.to(tl.int64)
    start = index * Q
    in_bounds = start + Q <= T
    first = tl.load(seq_starts + start, mask=in_bounds, other=start)
    last = tl.load(seq_ends + start, mask=in_bounds, other=start)
    state_term = tl.zeros((HG,), dtype=tl.float32)
    if (first < start) & (last >= start + Q):
        span = index // G
        span_start = span * G * Q
        chunk = (index - span * G).to(tl.int32)
        before = G - 1 - chunk if REVERSE else chunk  # chunks of the span that are scanned before this one
        valid = is_entered(seq_starts, seq_ends, span_start, span_start + Q * G, T, REVERSE)
        state = load_state(states, span, valid, columns, H * P, N)
        for step in range(before):
            at = span_start + (G - 1 - step if REVERSE else step) * Q
            state = advance_state(
                state, x, dt, a, B, seq_starts, seq_ends, at, T, stride_x, stride_dt, stride_B, H, columns, heads,
                HG, P, N, Q, REVERSE, False, PRECISION,
            )  # fmt: skip
        valid = is_entered(seq_starts, seq_ends, span_start, span_start + Q * G, T, not REVERSE)
        d_state = load_state(d_states, span, valid, columns, H * P, N)
        for step in range(G - 1 - before):
            at = span_start + (step if REVERSE else G - 1 - step) * Q
            d_state = advance_state(
                d_state, dy, dt, a, C, seq_starts, seq_ends, at, T, H * P, stride_dt, stride_C, H, columns, heads,
                HG, P, N, Q, REVERSE, True, PRECISION,
            )  # fmt: skip
        _, decay = chunk_decay(a, seq_starts, seq_ends, start, T, heads, H, Q, REVERSE)
        state_term = tl.sum(tl.reshape(tl.sum(state * d_state, axis=0), (HG, P)), axis=1) * decay
    tl.store(through + index * H + heads, state_term, mask=heads < H)


@triton.jit(do_not_specialize=["T"])
def decays_backward(
    dt, A, x_du, net, outgoing, through, seq_starts, seq_ends, d_dt, dA, T, stride_dt, H,
    HEADS: tl.constexpr, Q: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Store d_dt [T, H] and dA [chunks, H], to be summed over the chunks."""
    chunk = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    start = chunk * Q
    in_bounds, first, _, leaving = chunk_positions(seq_starts, seq_ends, start, T, Q, REVERSE)
    rate = tl.load(A + heads, mask=heads < H, other=0.0)
    from_row = causal_mask(first, Q, not REVERSE).to(tl.float32)  # the row itself and later positions
    inter = 1.0 - from_row
    inter = tl.where(first[:, None] == first[None, :], inter, 0.0)
    d_decay = tl.dot(from_row, load_heads(net, start, in_bounds, H, heads, H, Q), input_precision="ieee")
    state_term = tl.load(through + chunk * H + heads, mask=heads < H, other=0.0)
    crossing = tl.dot(inter, load_heads(outgoing, start, in_bounds, H, heads, H, Q), input_precision="ieee") + state_term[None, :]
    d_decay += tl.where(leaving[:, None], crossing, 0.0)
    steps = load_heads(dt, start, in_bounds, stride_dt, heads, H, Q)
    direct = load_heads(x_du, start, in_bounds, H, heads, H, Q)
    store_rows(d_dt, direct + d_decay * rate[None, :], start, in_bounds, heads, H, Q)
    tl.store(dA + chunk * H + heads, tl.sum(d_decay * steps, axis=0), mask=heads < H)
