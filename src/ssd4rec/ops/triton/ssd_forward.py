"""Forward kernels of the scan: cumulative decays, the states passed between spans, and y."""

import triton
import triton.language as tl

from ssd4rec.ops.triton.ssd_common import (
    advance_state,
    causal_mask,
    chunk_positions,
    expand_heads,
    is_entered,
    load_heads,
    load_rows,
    load_state,
    store_rows,
)


@triton.jit(do_not_specialize=["T"])
def cumulate_decays(dt, A, seq_starts, seq_ends, a, T, stride_dt, H, HEADS: tl.constexpr, Q: tl.constexpr, REVERSE: tl.constexpr):
    """Store a_i, the sum of dt_j A over the positions j <= i of the same sequence and chunk."""
    start = tl.program_id(0).to(tl.int64) * Q
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    in_bounds, first, _, _ = chunk_positions(seq_starts, seq_ends, start, T, Q, REVERSE)
    rate = tl.load(A + heads, mask=heads < H, other=0.0)
    decays = load_heads(dt, start, in_bounds, stride_dt, heads, H, Q) * rate[None, :]
    # Sums within the sequence, not differences of sums over the chunk, which a strong decay elsewhere would round.
    sums = tl.dot(causal_mask(first, Q, REVERSE).to(tl.float32), decays, input_precision="ieee")
    store_rows(a, sums, start, in_bounds, heads, H, Q)


@triton.jit(do_not_specialize=["T"])
def pass_states(
    x, dt, a, projection, seq_starts, seq_ends, states, T, stride_x, stride_dt, stride_projection, H,
    HG: tl.constexpr, P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, G: tl.constexpr,
    REVERSE: tl.constexpr, ADJOINT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Store states[s], the state that enters span s; ADJOINT: the gradient of the state that leaves it.

    The program of the span in which a sequence starts loops to the span in which it ends; sequences do not depend on each other.
    """
    tiles = tl.cdiv(H, HG)
    span = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    heads = tile * HG + tl.arange(0, HG)
    columns = tile * HG * P + tl.arange(0, HG * P)
    state_dims = tl.arange(0, N)
    length = Q * G
    BACK: tl.constexpr = REVERSE != ADJOINT
    if BACK:
        exit_row = span.to(tl.int64) * length
        first = tl.load(seq_ends + exit_row, mask=exit_row < T, other=-1)
        last = tl.load(seq_starts + exit_row, mask=exit_row < T, other=exit_row)
    else:
        exit_row = span.to(tl.int64) * length + length - 1
        first = tl.load(seq_starts + exit_row, mask=exit_row < T, other=-1)
        last = tl.load(seq_ends + exit_row, mask=exit_row < T, other=exit_row)
    if first >= 0 and first // length == span:
        steps = (span - last // length if BACK else last // length - span).to(tl.int32)
        state = tl.zeros((N, HG * P), dtype=tl.float32)
        for step in range(steps):
            at = (span - step) if BACK else (span + step)
            for chunk in range(G):
                index = at.to(tl.int64) * G + (G - 1 - chunk if BACK else chunk)
                state = advance_state(
                    state, x, dt, a, projection, seq_starts, seq_ends, index * Q, T, stride_x, stride_dt, stride_projection, H,
                    columns, heads, HG, P, N, Q, REVERSE, ADJOINT, PRECISION,
                )  # fmt: skip
            target = (at - 1 if BACK else at + 1).to(tl.int64)
            offsets = state_dims[:, None] * (H * P) + columns[None, :]
            tl.store(states + target * N * H * P + offsets, state, mask=(columns < H * P)[None, :])


@triton.jit
def per_head_output(
    weights, causal, u, sums, OPERAND: tl.constexpr,
    HG: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return the intra-chunk output [Q, HG * P] with one Q x Q decay matrix per head; valid for any decay."""
    output = tl.zeros((Q, HG * P), dtype=tl.float32)
    for head in range(HG):
        head_sums = tl.sum(tl.where(tl.arange(0, HG)[None, :] == head, sums, 0.0), axis=1)
        decay = tl.exp(tl.where(causal, head_sums[:, None] - head_sums[None, :], float("-inf")))
        own_columns = (tl.arange(0, HG * P) // P == head)[None, :]
        output += tl.dot((weights * decay).to(OPERAND), tl.where(own_columns, u, 0.0).to(OPERAND), input_precision=PRECISION)
    return output


@triton.jit(do_not_specialize=["T"])
def scan_output(
    x, dt, a, B, C, D, states, seq_starts, seq_ends, y, T, stride_x, stride_dt, stride_B, stride_C, H,
    HG: tl.constexpr, P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, G: tl.constexpr, RANGE: tl.constexpr,
    REVERSE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Store y of one span and tile; the state stays in registers from chunk to chunk."""
    tiles = tl.cdiv(H, HG)
    span = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    heads = tile * HG + tl.arange(0, HG)
    columns = tile * HG * P + tl.arange(0, HG * P)
    span_start = span.to(tl.int64) * (Q * G)
    OPERAND: tl.constexpr = x.dtype.element_ty
    skip = tl.load(D + tile * HG + tl.arange(0, HG * P) // P, mask=columns < H * P, other=0.0)
    valid = is_entered(seq_starts, seq_ends, span_start, span_start + Q * G, T, REVERSE)
    state = load_state(states, span, valid, columns, H * P, N)
    for chunk in range(G):
        start = span_start + (G - 1 - chunk if REVERSE else chunk) * Q
        in_bounds, first, entering, _ = chunk_positions(seq_starts, seq_ends, start, T, Q, REVERSE)
        sums = load_heads(a, start, in_bounds, H, heads, H, Q)
        values = load_rows(x, start, in_bounds, stride_x, columns, H * P, Q).to(tl.float32)
        u = values * expand_heads(load_heads(dt, start, in_bounds, stride_dt, heads, H, Q), Q, HG, P)
        B_tile = load_rows(B, start, in_bounds, stride_B, tl.arange(0, N), N, Q)
        C_tile = load_rows(C, start, in_bounds, stride_C, tl.arange(0, N), N, Q)
        causal = causal_mask(first, Q, REVERSE)
        weights = tl.where(causal, tl.dot(C_tile, tl.trans(B_tile), input_precision=PRECISION), 0.0)
        lowest = tl.min(sums, axis=0)
        if tl.min(lowest, axis=0) >= -2 * RANGE:
            middle = lowest[None, :] / 2
            column = (u * expand_heads(tl.exp(middle - sums), Q, HG, P)).to(OPERAND)
            intra = tl.dot(weights.to(OPERAND), column, input_precision=PRECISION)
            intra *= expand_heads(tl.exp(sums - middle), Q, HG, P)
        else:
            intra = per_head_output(weights, causal, u, sums, OPERAND, HG, P, Q, PRECISION)
        entry_decay = tl.exp(tl.where(entering[:, None], sums, float("-inf")))
        inter = tl.dot(C_tile, state.to(OPERAND), input_precision=PRECISION) * expand_heads(entry_decay, Q, HG, P)
        out = intra + inter + values * skip[None, :]
        store_rows(y, out, start, in_bounds, columns, H * P, Q)
        state = advance_state(
            state, x, dt, a, B, seq_starts, seq_ends, start, T, stride_x, stride_dt, stride_B, H, columns, heads,
            HG, P, N, Q, REVERSE, False, PRECISION,
        )  # fmt: skip
