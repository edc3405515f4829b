"""The scan as matrix products: chunks of Q positions, all heads side by side as the columns of one matrix.

With a_i the sum of log-decays of a history inside its chunk up to event i, and u = dt x,

    y_i = sum_{j <= i} exp(a_i - a_j) (C_i . B_j) u_j   +   exp(a_i) C_i carry   +   D x_i

C_i . B_j is the same for every head, so it is computed once; the decays, which differ by head, are split into a factor of the
row i and one of the column j and never form a Q x Q matrix. The split must not overflow, whatever the model has learned:

* between two neighbouring blocks the split point is the edge r between them: exp(a_i - r) and exp(r - a_j) are both <= 1.
  Halving the chunk again and again (32 | 32, then 16 | 16 in each half, …) covers every pair outside the base blocks;
* inside a base block of b events the split point is the middle of its range. Its exponents stay within float32's as long
  as b max|dt A| <= 2 RANGE, which decides b; at the smallest b a stronger decay counts as exp(-2 RANGE / b), which is less than
  the rounding of the sum that it is part of.

Reversed (the backward direction of a bidirectional layer) the same holds with i <= j and the sums running from the end: nothing
is flipped or copied. The gradients need no more than the transposed products, because
da_i = <dy_i, y_i> - <u_i, du_i> for each head. What an event reads of itself is in both and cancels: where a decay leaves next to
nothing of the events before, the gradients of dt and A are right to the rounding of <dy_i, y_i>, not of themselves.

Source: the block decomposition is Dao and Gu 2024, "Transformers are SSMs", section 6; the merged heads are ours.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.array_types import Rates, StateInputs, StateReads, StepSizes, Values
from ssd4rec.ops.heads import add_by_head_, by_head, scale_, sum_of_head
from ssd4rec.ops.segments import Chunks, Layout, add_at_, beside, hand_on_, promote_to_float32

SMALLEST_BLOCK = 8
RANGE = {torch.float32: 70.0, torch.float64: 600.0}  # exp(RANGE) leaves room for the values it multiplies


def chunked_scan(
    x: Values,
    dt: StepSizes,
    A: Rates,
    B: StateInputs,
    C: StateReads,
    D: Rates,
    layout: Layout,
    *,
    reverse: bool = False,
) -> Values:
    """`scan` as matrix products; the same arguments and result, differentiable in all of them.

    Args:
        x: [T, H, P] values.
        dt: [T, H] step sizes, positive.
        A: [H] decay rates, negative.
        B: [T, N].
        C: [T, N].
        D: [H] skip weights.
        layout: of the row.
        reverse: read each history from its last event to its first; y stays at the event's own position.

    Returns:
        y [T, H, P].
    """
    with torch.autocast(x.device.type, enabled=False):
        y: Values = _ChunkedScan.apply(*promote_to_float32(x, dt, A, B, C, D), layout.chunks, reverse)  # type: ignore[no-untyped-call]  # torch has no types here
    return y


class _Block(NamedTuple):
    """Factors of one product, row (C B^T) column, for `pairs` pairs of blocks of `size` positions."""

    size: int
    row: Tensor  # [pairs, size, H]
    column: Tensor  # [pairs, size, H]


class _Decays(NamedTuple):
    """All decay factors of a row, worked out from dt A alone."""

    halves: list[_Block]
    base: _Block  # a block with itself
    inside: Tensor  # [blocks, size, size]: 1 where base counts: the same history, and not later
    into: Tensor  # [links, Q, H]: exp(a_i) where the history that comes over the link reaches, else 0
    out_of: Tensor  # [links, Q, H]: exp(a_last - a_j) for the history that leaves over the link, else 0
    across: Tensor  # [links, H]: exp(a_last): what a chunk of one history leaves of what came into it
    summed: Tensor  # [C, Q, Q]: 1 where j is summed into a_i


def _decays(log_decay: Tensor, chunks: Chunks, *, reverse: bool) -> _Decays:
    Q, heads = chunks.length, log_decay.shape[-1]
    history = chunks.history
    same = history[:, :, None] == history[:, None, :]
    summed = same * _since(Q, reverse=reverse, like=log_decay)
    a = summed @ log_decay.view(-1, Q, heads)

    limit = 2 * RANGE[log_decay.dtype]
    steepest = _steepest(log_decay)
    size = Q
    while size > SMALLEST_BLOCK and size * steepest > limit:
        size //= 2
    halves = []
    half = Q // 2
    while half >= size:
        row_decay, row_h = _rows(half, log_decay, history.view(-1, 1), reverse=reverse)
        column_decay, column_h = _columns(half, log_decay, history.view(-1, 1), reverse=reverse)
        edge_h = column_h[:, slice(0, 1) if reverse else slice(-1, None)]
        # Sums from the edge on, not differences of sums over the chunk, which a strong decay elsewhere would round.
        row = (_since(half, reverse=reverse, like=a) @ row_decay).masked_fill(row_h != edge_h, -torch.inf).exp()
        column = (_until(half, reverse=reverse, like=a) @ column_decay).masked_fill(column_h != edge_h, -torch.inf).exp()
        halves.append(_Block(half, row, column))
        half //= 2

    inside = summed.view(-1, Q // size, size, Q // size, size).diagonal(dim1=1, dim2=3).movedim(-1, 1)
    inside = inside.reshape(-1, size, size)
    local = inside @ log_decay.clamp(min=-limit / size).view(-1, size, heads)
    middle = local.amin(dim=1, keepdim=True) / 2
    base = _Block(size, (local - middle).exp(), (middle - local).exp())

    source, target = chunks.ends(reverse=reverse)
    exit_ = 0 if reverse else Q - 1
    carried = history[source, exit_][:, None]
    into = a[target].masked_fill((history[target] != carried)[..., None], -torch.inf).exp()
    final = a[source, exit_]
    rest = _until(Q, reverse=reverse, like=a) @ log_decay.view(-1, Q, heads)[source]
    out_of = rest.masked_fill((history[source] != carried)[..., None], -torch.inf).exp()
    return _Decays(halves, base, inside, into, out_of, final.exp(), summed)


def _steepest(log_decay: Tensor) -> float:
    # On a CPU, where a number can be looked at; another device would be waited for, and takes what serves any decay.
    if log_decay.device.type != "cpu":
        return math.inf
    return float(-log_decay.min()) if log_decay.numel() else 0.0


def _since(size: int, *, reverse: bool, like: Tensor) -> Tensor:
    # [size, size]: 1 where j is read no later than i
    ones = like.new_ones(size, size)
    return ones.triu() if reverse else ones.tril()


def _until(size: int, *, reverse: bool, like: Tensor) -> Tensor:
    # [size, size]: 1 where j is read after i
    ones = like.new_ones(size, size)
    return ones.tril(-1) if reverse else ones.triu(1)


class _ChunkedScan(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913 - a scan has six inputs
        ctx: Any,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        chunks: Chunks,
        reverse: bool,  # noqa: FBT001 - apply takes no keywords
    ) -> Tensor:
        length, heads, _ = x.shape
        values, steps = chunks.padded(x.flatten(1)), chunks.padded(dt)
        writes, reads = chunks.padded(B), chunks.padded(C)
        decays = _decays(steps * A, chunks, reverse=reverse)
        y = _read_blocks(values, steps, writes, reads, decays, reverse=reverse)
        add_by_head_(y, values, D.expand(heads))
        carry = _carry(values, steps, writes, decays, chunks, reverse=reverse)
        _read_carry(y, carry, reads, decays, chunks, reverse=reverse)
        y = y[:length]
        ctx.save_for_backward(x, dt, A, B, C, D, y, carry)
        ctx.chunks, ctx.reverse = chunks, reverse
        return y.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, dt, A, B, C, D, y, carry = ctx.saved_tensors
        chunks, reverse = ctx.chunks, ctx.reverse
        length, heads, _ = x.shape
        Q = chunks.length
        values, steps = chunks.padded(x.flatten(1)), chunks.padded(dt)
        writes, reads = chunks.padded(B), chunks.padded(C)
        dy = chunks.padded(grad.reshape(length, -1))
        decays = _decays(steps * A, chunks, reverse=reverse)
        inputs = (values, steps, writes, reads)
        du, d_writes, d_reads = _read_blocks_backward(dy, inputs, decays, reverse=reverse)
        d_carry = _carry_backward((du, d_writes, d_reads), dy, inputs, carry, decays, chunks, reverse=reverse)

        # y without its skip term is what the decays acted on.
        dy_x, du_x = sum_of_head(dy * values, heads), sum_of_head(du * values, heads)
        da = (sum_of_head(dy * chunks.padded(y), heads) - D * dy_x - steps * du_x).view(-1, Q, heads)
        source, _ = chunks.ends(reverse=reverse)
        add_at_(da[:, 0 if reverse else Q - 1], source, sum_of_head((d_carry * carry).sum(1), heads))
        d_log_decay = (decays.summed.mT @ da).view(-1, heads)

        dx = scale_(du, steps)
        add_by_head_(dx, dy, D.expand(heads))
        dx = dx[:length].view_as(x)
        d_dt = (du_x + d_log_decay * A)[:length]
        d_A = (d_log_decay * steps).sum(0)
        return dx, d_dt, d_A, d_writes[:length], d_reads[:length], dy_x.sum(0), None, None


Inputs = tuple[Tensor, Tensor, Tensor, Tensor]  # x, dt, B and C, each padded to whole chunks


def _rows(size: int, *tensors: Tensor, reverse: bool) -> list[Tensor]:
    # of each pair of blocks the one that reads: [C Q, width] -> [pairs, size, width]
    return [tensor.view(-1, 2, size, tensor.shape[-1])[:, 0 if reverse else 1] for tensor in tensors]


def _columns(size: int, *tensors: Tensor, reverse: bool) -> list[Tensor]:
    # the one that is read
    return _rows(size, *tensors, reverse=not reverse)


def _read_blocks(x: Tensor, steps: Tensor, writes: Tensor, reads: Tensor, decays: _Decays, *, reverse: bool) -> Tensor:
    """What events read of earlier events of their own chunk, and of themselves [C Q, E]."""
    base = decays.base
    shaped_x, shaped_B, shaped_C = (t.view(-1, base.size, t.shape[-1]) for t in (x, writes, reads))
    written = base.column * steps.view_as(base.column)
    weights = (shaped_C @ shaped_B.mT).mul_(decays.inside)
    y = scale_(weights @ by_head(shaped_x, written), base.row).view_as(x)
    for block in decays.halves:
        row_y, row_C = _rows(block.size, y, reads, reverse=reverse)
        column_x, column_B, column_steps = _columns(block.size, x, writes, steps, reverse=reverse)
        read = (row_C @ column_B.mT) @ by_head(column_x, block.column * column_steps)
        add_by_head_(row_y, read, block.row)
    return y


def _read_blocks_backward(dy: Tensor, inputs: Inputs, decays: _Decays, *, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of u = dt x, B and C."""
    x, steps, writes, reads = inputs
    base = decays.base
    shaped_x, shaped_B, shaped_C, shaped_dy = (t.view(-1, base.size, t.shape[-1]) for t in (x, writes, reads, dy))
    scaled_dy = by_head(shaped_dy, base.row)
    weights = (shaped_C @ shaped_B.mT).mul_(decays.inside)
    du = scale_(weights.mT @ scaled_dy, base.column).view_as(x)
    # Above the diagonal the factors can multiply to inf: such entries are replaced, since 0 * inf is NaN.
    d_weights = scaled_dy @ by_head(shaped_x, base.column * steps.view_as(base.column)).mT
    d_weights.masked_fill_(decays.inside.eq(0), 0.0)
    d_reads, d_writes = (d_weights @ shaped_B).view_as(reads), (d_weights.mT @ shaped_C).view_as(writes)
    for block in decays.halves:
        row_dy, row_C, row_dC = _rows(block.size, dy, reads, d_reads, reverse=reverse)
        column_x, column_B, column_steps = _columns(block.size, x, writes, steps, reverse=reverse)
        column_du, column_dB = _columns(block.size, du, d_writes, reverse=reverse)
        scaled_dy = by_head(row_dy, block.row)
        add_by_head_(column_du, (row_C @ column_B.mT).mT @ scaled_dy, block.column)
        d_weights = scaled_dy @ by_head(column_x, block.column * column_steps).mT
        row_dC += d_weights @ column_B
        column_dB += d_weights.mT @ row_C
    return du, d_writes, d_reads


def _carry(x: Tensor, steps: Tensor, writes: Tensor, decays: _Decays, chunks: Chunks, *, reverse: bool) -> Tensor:
    """[links, N, E]: the state that each link hands over."""
    source, _ = chunks.ends(reverse=reverse)
    Q, before = chunks.length, 1 if reverse else -1
    leaving = by_head(x.view(-1, Q, x.shape[-1])[source], decays.out_of * steps.view(-1, Q, steps.shape[-1])[source])
    state = writes.view(-1, Q, writes.shape[-1])[source].mT @ leaving
    for links in chunks.relays_back if reverse else chunks.relays:
        hand_on_(state, beside(links, before), links, decays.across[links][:, None])
    return state


def _read_carry(y: Tensor, carry: Tensor, reads: Tensor, decays: _Decays, chunks: Chunks, *, reverse: bool) -> None:
    """Add to y what events read of the state that came over the link."""
    _, target = chunks.ends(reverse=reverse)
    Q = chunks.length
    read = reads.view(-1, Q, reads.shape[-1])[target] @ carry
    add_at_(y.view(-1, Q, y.shape[-1]), target, scale_(read, decays.into))


def _carry_backward(
    grads: tuple[Tensor, Tensor, Tensor],
    dy: Tensor,
    inputs: Inputs,
    carry: Tensor,
    decays: _Decays,
    chunks: Chunks,
    *,
    reverse: bool,
) -> Tensor:
    """Add the carry's share to the gradients of u, B and C; return its own [links, N, E]."""
    du, d_writes, d_reads = (grad.view(-1, chunks.length, grad.shape[-1]) for grad in grads)
    shaped_dy, x, steps, writes, reads = (t.view(-1, chunks.length, t.shape[-1]) for t in (dy, *inputs))
    source, target = chunks.ends(reverse=reverse)
    before = 1 if reverse else -1
    reading = by_head(shaped_dy[target], decays.into)
    d_carry = reads[target].mT @ reading
    add_at_(d_reads, target, reading @ carry.mT)
    for links in reversed(chunks.relays_back if reverse else chunks.relays):
        hand_on_(d_carry, links, beside(links, before), decays.across[links][:, None])
    leaving = by_head(x[source], decays.out_of * steps[source])
    add_at_(du, source, scale_(writes[source] @ d_carry, decays.out_of))
    add_at_(d_writes, source, leaving @ d_carry.mT)
    return d_carry
