"""Helpers shared by the kernels of the scan: positions in a chunk, decays, and the state passed between chunks.

The notation is that of `ops/ssd/chunked.py`. A program processes one *span* (G chunks of Q positions) and one *tile* of columns
(HG heads of P columns). In the direction of the scan, a sequence *enters* a chunk if it starts before the chunk and *leaves* it
if it continues after the chunk. `a` [T, H] holds the cumulative log decays of a sequence within its chunk. Every exponent below
is a difference of two of them: it is <= 0 wherever it is used, and replaced by -inf before exp wherever it is masked.
"""

import triton
import triton.language as tl

from ssd4rec.ops.triton.common import NO_POSITION


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
def expand_heads(head_values, Q: tl.constexpr, HG: tl.constexpr, P: tl.constexpr):
    """[Q, HG] -> [Q, HG * P]: repeat the factor of each head for its columns."""
    return tl.reshape(tl.broadcast_to(head_values[:, :, None], (Q, HG, P)), (Q, HG * P))


@triton.jit
def sum_heads(column_values, Q: tl.constexpr, HG: tl.constexpr, P: tl.constexpr):
    """[Q, HG * P] -> [Q, HG]: sum the columns of each head."""
    return tl.sum(tl.reshape(column_values, (Q, HG, P)), axis=2)


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
