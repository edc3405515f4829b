"""What the scan's kernels share: who follows whom in a chunk, the decays, the state that a chunk hands on.

Letters as in `ops/chunked.py`. A program works on one *span* (G chunks of Q events) and one *tile* of columns (HG heads of P
columns). In the direction of reading, a history *enters* a chunk if it began before it and *leaves* if it goes on after it.
`a` [T, H] holds the sums of log-decays of a history inside its chunk; every exponent below is a difference of two of them that
is <= 0 wherever it counts, and is replaced by -inf before exp wherever it does not.
"""
# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, no-untyped-def, unused-ignore"
# mypy: warn_return_any = False
# ruff: noqa: ANN001, ANN201 - kernels: pointers and constexprs carry no types that Python knows

from typing import no_type_check

import triton
import triton.language as tl

from ssd4rec.ops.triton.common import NO_EVENT


@triton.jit
@no_type_check
def places(first, last, start, T, Q: tl.constexpr, REVERSE: tl.constexpr):
    """(inside the row?, where its history starts, enters?, leaves?), each [Q], of the chunk at `start`."""
    rows = start + tl.arange(0, Q)
    here = rows < T
    begins = tl.load(first + rows, mask=here, other=NO_EVENT)
    ends = tl.load(last + rows, mask=here, other=NO_EVENT)
    before = here & (begins < start)
    after = here & (ends >= start + Q)
    if REVERSE:
        return here, begins, after, before
    return here, begins, before, after


@triton.jit
@no_type_check
def reads_of(begins, Q: tl.constexpr, REVERSE: tl.constexpr):
    """[Q, Q]: the event of the row reads the event of the column: the same history, and not later."""
    place = tl.arange(0, Q)
    same = begins[:, None] == begins[None, :]
    if REVERSE:
        return same & (place[:, None] <= place[None, :])
    return same & (place[:, None] >= place[None, :])


@triton.jit
@no_type_check
def across(a, first, last, start, T, heads, H, Q: tl.constexpr, REVERSE: tl.constexpr):
    """(sum of the log-decays up to the chunk's exit [HG], what the chunk leaves of a state that came into it [HG])."""
    if REVERSE:
        leaving = start
        goes_on = tl.load(last + leaving, mask=leaving < T, other=NO_EVENT) >= start + Q
    else:
        leaving = start + Q - 1
        goes_on = tl.load(first + leaving, mask=leaving < T, other=start) < start
    total = tl.load(a + leaving * H + heads, mask=(heads < H) & (leaving < T), other=0.0)
    return total, tl.where(goes_on, tl.exp(total), 0.0)


@triton.jit
@no_type_check
def per_column(of_heads, Q: tl.constexpr, HG: tl.constexpr, P: tl.constexpr):
    """[Q, HG] -> [Q, HG * P]: a head's factor for each of its columns."""
    return tl.reshape(tl.broadcast_to(of_heads[:, :, None], (Q, HG, P)), (Q, HG * P))


@triton.jit
@no_type_check
def per_head(of_columns, Q: tl.constexpr, HG: tl.constexpr, P: tl.constexpr):
    """[Q, HG * P] -> [Q, HG]: each head's columns summed."""
    return tl.sum(tl.reshape(of_columns, (Q, HG, P)), axis=2)


@triton.jit
@no_type_check
def of_events(values, start, here, stride, heads, H, Q: tl.constexpr):
    """[Q, HG] numbers of the chunk's events and the tile's heads, in float32; zero past the row's end."""
    return rows_of(values, start, here, stride, heads, H, Q).to(tl.float32)


@triton.jit
@no_type_check
def rows_of(values, start, here, stride, columns, width, Q: tl.constexpr):
    """[Q, columns] of a matrix of T rows, in its own type; zero past its edges."""
    # The chunk's place is a 64-bit scalar, the places inside it are 32-bit: half the registers.
    offsets = tl.arange(0, Q)[:, None] * stride + columns[None, :]
    return tl.load(values + start * stride + offsets, mask=here[:, None] & (columns < width)[None, :], other=0.0)


@triton.jit
@no_type_check
def put_rows(values, numbers, start, here, columns, width, Q: tl.constexpr):
    """Write [Q, columns] into a contiguous matrix of T rows, in its type."""
    offsets = tl.arange(0, Q)[:, None] * width + columns[None, :]
    inside = here[:, None] & (columns < width)[None, :]
    tl.store(values + start * width + offsets, numbers.to(values.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def entering_state(carry, span, valid, columns, width, N: tl.constexpr):
    """[N, columns] float32: the state that comes into the span; zero where nothing does (nothing was written there)."""
    states = tl.arange(0, N)
    offsets = states[:, None] * width + columns[None, :]
    return tl.load(carry + span.to(tl.int64) * N * width + offsets, mask=(columns[None, :] < width) & valid, other=0.0)


@triton.jit
@no_type_check
def comes_in(first, last, start, end, T, REVERSE: tl.constexpr):
    """Does a history come over the edge into the span [start, end)? Reversed: over its end."""
    if REVERSE:
        return tl.load(last + end - 1, mask=end <= T, other=NO_EVENT) >= end
    return tl.load(first + start, mask=start < T, other=start) < start


@triton.jit
@no_type_check
def pass_on(
    state, x, dt, a, writes, first, last, start, T, stride_x, stride_dt, stride_writes, H, columns, heads,
    HG: tl.constexpr, P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr,
    REVERSE: tl.constexpr, ADJOINT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[N, columns]: the state after a chunk, from the state before it.

    ADJOINT: the gradient of the state before the chunk from that after it; x is then dy, `writes` is C and dt is not read.
    """
    here, _, enters, leaves = places(first, last, start, T, Q, REVERSE)
    values = rows_of(x, start, here, stride_x, columns, H * P, Q)
    sums = of_events(a, start, here, H, heads, H, Q)
    total, kept = across(a, first, last, start, T, heads, H, Q, REVERSE)
    if ADJOINT:
        factor = tl.exp(tl.where(enters[:, None], sums, float("-inf")))
    else:
        factor = tl.exp(tl.where(leaves[:, None], total[None, :] - sums, float("-inf")))
        factor *= of_events(dt, start, here, stride_dt, heads, H, Q)
    added = (values.to(tl.float32) * per_column(factor, Q, HG, P)).to(values.dtype)
    written = rows_of(writes, start, here, stride_writes, tl.arange(0, N), N, Q)
    kept_columns = tl.reshape(tl.broadcast_to(kept[:, None], (HG, P)), (HG * P,))
    return state * kept_columns[None, :] + tl.dot(tl.trans(written), added, input_precision=PRECISION)
