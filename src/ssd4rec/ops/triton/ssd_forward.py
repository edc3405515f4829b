"""Forward kernels of the scan (cumulative decays, the states passed between spans, and y), and helpers of the backward kernels.

The notation is that of `ops/ssd/chunked.py`. A program processes one *span* (G chunks of Q positions) and one *tile* of columns
(HG heads of P columns). In the direction of the scan, a sequence *enters* a chunk if it starts before the chunk and *leaves* it
if it continues after the chunk. `a` [T, H] holds the cumulative log decays of a sequence within its chunk. Every exponent below
is a difference of two of them: it is <= 0 wherever it is used, and replaced by -inf before exp wherever it is masked.
"""

import triton
import triton.language as tl

from ssd4rec.ops.triton.common import NO_POSITION, expand_heads, head_tile


@triton.jit
def chunk_positions(seq_starts, seq_ends, start, T, Q: tl.constexpr, REVERSE: tl.constexpr):
    """Return (in bounds?, first position of the sequence, enters?, leaves?), each [Q], for the chunk at `start`."""
    rows = start + tl.arange(0, Q)
    in_bounds = rows < T
    first = tl.load(seq_starts + rows, mask=in_bounds, other=NO_POSITION)
    last = tl.load(seq_ends + rows, mask=in_bounds, other=NO_POSITION)
    before = in_bounds & (first < start)
    after = in_bounds & (last >= start + Q)
    if REVERSE:
        return in_bounds, first, after, before
    return in_bounds, first, before, after


@triton.jit
def causal_mask(first, Q: tl.constexpr, REVERSE: tl.constexpr):
    """[Q, Q]: whether the column is in the sequence of the row and not later in the direction of the scan."""
    position = tl.arange(0, Q)
    same = first[:, None] == first[None, :]
    if REVERSE:
        return same & (position[:, None] <= position[None, :])
    return same & (position[:, None] >= position[None, :])


@triton.jit
def chunk_decay(a, seq_starts, seq_ends, start, T, heads, H, Q: tl.constexpr, REVERSE: tl.constexpr):
    """Return (cumulative log decay at the exit of the chunk [HG], decay of a state through the whole chunk [HG])."""
    if REVERSE:
        exit_row = start
        continues = tl.load(seq_ends + exit_row, mask=exit_row < T, other=NO_POSITION) >= start + Q
    else:
        exit_row = start + Q - 1
        continues = tl.load(seq_starts + exit_row, mask=exit_row < T, other=start) < start
    total = tl.load(a + exit_row * H + heads, mask=(heads < H) & (exit_row < T), other=0.0)
    return total, tl.where(continues, tl.exp(total), 0.0)


@triton.jit
def load_heads(values, start, in_bounds, stride, heads, H, Q: tl.constexpr):
    """Load [Q, HG] for the positions of the chunk and the heads of the tile, as float32; zero out of bounds."""
    return load_rows(values, start, in_bounds, stride, heads, H, Q).to(tl.float32)


@triton.jit
def load_rows(values, start, in_bounds, stride, columns, width, Q: tl.constexpr):
    """Load [Q, columns] of a matrix of T rows, in its own type; zero out of bounds."""
    # The start of the chunk is a 64-bit scalar and the offsets are 32-bit, which halves the registers.
    offsets = tl.arange(0, Q)[:, None] * stride + columns[None, :]
    return tl.load(values + start * stride + offsets, mask=in_bounds[:, None] & (columns < width)[None, :], other=0.0)


@triton.jit
def store_rows(pointer, values, start, in_bounds, columns, width, Q: tl.constexpr):
    """Store [Q, columns] in a contiguous matrix of T rows, in its type."""
    offsets = tl.arange(0, Q)[:, None] * width + columns[None, :]
    inside = in_bounds[:, None] & (columns < width)[None, :]
    tl.store(pointer + start * width + offsets, values.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def load_state(states, span, valid, columns, width, N: tl.constexpr):
    """Load [N, columns] float32: the state that enters the span; zero if none does (that memory is uninitialized)."""
    state_dims = tl.arange(0, N)
    offsets = state_dims[:, None] * width + columns[None, :]
    return tl.load(states + span.to(tl.int64) * N * width + offsets, mask=(columns[None, :] < width) & valid, other=0.0)


@triton.jit
def is_entered(seq_starts, seq_ends, start, end, T, REVERSE: tl.constexpr):
    """Whether a sequence enters the span [start, end); reversed: over its end."""
    if REVERSE:
        return tl.load(seq_ends + end - 1, mask=end <= T, other=NO_POSITION) >= end
    return tl.load(seq_starts + start, mask=start < T, other=start) < start


@triton.jit
def advance_state(
    state, x, dt, a, projection, seq_starts, seq_ends, start, T, stride_x, stride_dt, stride_projection, H, columns, heads,
    HG: tl.constexpr, P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr,
    REVERSE: tl.constexpr, ADJOINT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return the state after a chunk [N, columns] from the state before it.

    ADJOINT: the gradient of the state before the chunk from that after it; x is then dy, the projection is C, and dt is unused.
    """
    in_bounds, _, entering, leaving = chunk_positions(seq_starts, seq_ends, start, T, Q, REVERSE)
    values = load_rows(x, start, in_bounds, stride_x, columns, H * P, Q)
    sums = load_heads(a, start, in_bounds, H, heads, H, Q)
    total, decay = chunk_decay(a, seq_starts, seq_ends, start, T, heads, H, Q, REVERSE)
    if ADJOINT:
        factor = tl.exp(tl.where(entering[:, None], sums, float("-inf")))
    else:
        factor = tl.exp(tl.where(leaving[:, None], total[None, :] - sums, float("-inf")))
        factor *= load_heads(dt, start, in_bounds, stride_dt, heads, H, Q)
    scaled = (values.to(tl.float32) * expand_heads(factor, Q, HG, P)).to(values.dtype)
    projected = load_rows(projection, start, in_bounds, stride_projection, tl.arange(0, N), N, Q)
    column_decay = tl.reshape(tl.broadcast_to(decay[:, None], (HG, P)), (HG * P,))
    return state * column_decay[None, :] + tl.dot(tl.trans(projected), scaled, input_precision=PRECISION)


@triton.jit
def decay_factors(sums, Q: tl.constexpr, HG: tl.constexpr, P: tl.constexpr):
    """Return (row factor, column factor) [Q, HG * P]; their product is the decay between two positions."""
    middle = tl.min(sums, axis=0)[None, :] / 2
    return expand_heads(tl.exp(sums - middle), Q, HG, P), expand_heads(tl.exp(middle - sums), Q, HG, P)


@triton.jit
def select_head(values, head, OPERAND: tl.constexpr, HG: tl.constexpr, P: tl.constexpr):
    """Return [Q, HG * P] as an operand with the columns of the other heads set to zero."""
    own_columns = (tl.arange(0, HG * P) // P == head)[None, :]
    return tl.where(own_columns, values, 0.0).to(OPERAND)


@triton.jit
def head_decay(sums, head, causal, HG: tl.constexpr):
    """[Q, Q]: exp(a_i - a_j) of one head where the mask is set, else 0; valid for any decay."""
    head_sums = tl.sum(tl.where(tl.arange(0, HG)[None, :] == head, sums, 0.0), axis=1)
    return tl.exp(tl.where(causal, head_sums[:, None] - head_sums[None, :], float("-inf")))


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
    span, _tile, heads, columns = head_tile(H, HG, P)
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


@triton.jit(do_not_specialize=["T"])
def scan_output(
    x, dt, a, B, C, D, states, seq_starts, seq_ends, y, T, stride_x, stride_dt, stride_B, stride_C, H,
    HG: tl.constexpr, P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, G: tl.constexpr, RANGE: tl.constexpr,
    REVERSE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Store y of one span and tile; the state stays in registers from chunk to chunk."""
    span, tile, heads, columns = head_tile(H, HG, P)
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
        if tl.min(tl.min(sums, axis=0), axis=0) >= -2 * RANGE:
            row_decay, column_decay = decay_factors(sums, Q, HG, P)
            intra = row_decay * tl.dot(weights.to(OPERAND), (u * column_decay).to(OPERAND), input_precision=PRECISION)
        else:
            intra = tl.zeros((Q, HG * P), dtype=tl.float32)
            for head in range(HG):
                decayed = (weights * head_decay(sums, head, causal, HG)).to(OPERAND)
                intra += tl.dot(decayed, select_head(u, head, OPERAND, HG, P), input_precision=PRECISION)
        entry_decay = tl.exp(tl.where(entering[:, None], sums, float("-inf")))
        inter = tl.dot(C_tile, state.to(OPERAND), input_precision=PRECISION) * expand_heads(entry_decay, Q, HG, P)
        out = intra + inter + values * skip[None, :]
        store_rows(y, out, start, in_bounds, columns, H * P, Q)
        state = advance_state(
            state, x, dt, a, B, seq_starts, seq_ends, start, T, stride_x, stride_dt, stride_B, H, columns, heads,
            HG, P, N, Q, REVERSE, False, PRECISION,
        )  # fmt: skip
