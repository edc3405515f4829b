"""The SSD scan as matrix products over chunks of Q positions, with all heads side by side as columns of one matrix.

Let a_i be the cumulative log decay of a sequence within its chunk up to position i, and u = dt x. Then

    y_i = sum_{j <= i} exp(a_i - a_j) (C_i . B_j) u_j   +   exp(a_i) C_i state   +   D x_i

where `state` is the chunk state passed from the previous chunk. C_i . B_j is the same for every head and is computed once.
The decays differ between heads. Each is split into a row factor and a column factor, so no Q x Q decay matrix per head exists.
The split must not overflow, whatever decay the model has learned:

* Between two neighboring blocks the split point r is the boundary between them: exp(a_i - r) and exp(r - a_j) are both <= 1.
  Halving the chunk recursively (32 | 32, then 16 | 16 in each half, …) covers every pair outside the base blocks.
* Within a base block of b positions the split point is the middle of its range.
  The exponents stay within the range of float32 while b max|dt A| <= 2 RANGE, which determines b.
  At the smallest b, a stronger decay counts as exp(-2 RANGE / b), which is below the rounding of the sum that it enters.

The reversed scan (the backward direction of a bidirectional layer) is the same with i <= j and sums from the last position;
nothing is flipped or copied. The backward pass needs only the transposed products, because da_i = <dy_i, y_i> - <u_i, du_i>
for each head. The term of a position with itself occurs in both and cancels: if almost everything earlier has decayed,
the gradients of dt and A are accurate relative to <dy_i, y_i>, not relative to their own small value.

Source: the block decomposition is from Dao and Gu 2024, "Transformers are SSMs", section 6; merging the heads is ours.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.array_types import Rates, StateInputs, StateReads, StepSizes, Values
from ssd4rec.ops.heads import add_scaled_heads_, scale_heads, scale_heads_, sum_heads
from ssd4rec.ops.segments import Chunks, Layout, add_rows_, pass_states_, promote_to_float32

SMALLEST_BLOCK = 8
RANGE = {torch.float32: 70.0, torch.float64: 600.0}  # exp(RANGE) leaves headroom for the values that it multiplies


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
    """Compute the scan as matrix products; see `ops.dispatch.scan` for the arguments. Returns y [T, H, P]."""
    with torch.autocast(x.device.type, enabled=False):
        return _ChunkedScan.apply(*promote_to_float32(x, dt, A, B, C, D), layout.chunks, reverse)


class _BlockDecay(NamedTuple):
    """Decay factors of one product row * (C B^T) * column, for `pairs` pairs of blocks of `size` positions."""

    size: int
    row: Tensor  # [pairs, size, H]
    column: Tensor  # [pairs, size, H]


class _Decays(NamedTuple):
    """All decay factors of a packed batch, computed from dt A."""

    halves: list[_BlockDecay]
    base: _BlockDecay  # a block with itself
    base_mask: Tensor  # [blocks, size, size]: 1 where j precedes or equals i in the same sequence
    entering: Tensor  # [crossings, Q, H]: exp(a_i) where the sequence that crosses the boundary continues, else 0
    leaving: Tensor  # [crossings, Q, H]: exp(a_last - a_j) for the sequence that crosses the boundary, else 0
    whole_chunk: Tensor  # [crossings, H]: exp(a_last): decay of a state through a chunk filled by one sequence
    cumsum_mask: Tensor  # [C, Q, Q]: 1 where position j is summed into a_i


def _decays(log_decay: Tensor, chunks: Chunks, *, reverse: bool) -> _Decays:
    Q, heads = chunks.size, log_decay.shape[-1]
    seq_idx = chunks.seq_idx
    same_sequence = seq_idx[:, :, None] == seq_idx[:, None, :]
    cumsum_mask = same_sequence * _up_to(Q, reverse=reverse, like=log_decay)
    a = cumsum_mask @ log_decay.view(-1, Q, heads)

    limit = 2 * RANGE[log_decay.dtype]
    size = _base_block_size(log_decay, Q, limit)
    halves = _half_block_decays(log_decay, seq_idx, size, reverse=reverse)

    base_mask = cumsum_mask.view(-1, Q // size, size, Q // size, size).diagonal(dim1=1, dim2=3).movedim(-1, 1)
    base_mask = base_mask.reshape(-1, size, size)
    local = base_mask @ log_decay.clamp(min=-limit / size).view(-1, size, heads)
    middle = local.amin(dim=1, keepdim=True) / 2
    base = _BlockDecay(size, (local - middle).exp(), (middle - local).exp())

    source, target = chunks.source_and_target(reverse=reverse)
    exit_ = chunks.exit(reverse=reverse)
    crossing = seq_idx[source, exit_][:, None]
    entering = a[target].masked_fill((seq_idx[target] != crossing)[..., None], -torch.inf).exp()
    remaining = _after(Q, reverse=reverse, like=a) @ log_decay.view(-1, Q, heads)[source]
    leaving = remaining.masked_fill((seq_idx[source] != crossing)[..., None], -torch.inf).exp()
    return _Decays(halves, base, base_mask, entering, leaving, a[source, exit_].exp(), cumsum_mask)


def _base_block_size(log_decay: Tensor, Q: int, limit: float) -> int:
    if log_decay.device.type != "cpu":
        return SMALLEST_BLOCK  # reading a number would synchronize with a GPU
    steepest = float(-log_decay.min()) if log_decay.numel() else 0.0
    size = Q
    while size > SMALLEST_BLOCK and size * steepest > limit:
        size //= 2
    return size


def _half_block_decays(log_decay: Tensor, seq_idx: Tensor, smallest: int, *, reverse: bool) -> list[_BlockDecay]:
    halves = []
    half = seq_idx.shape[1] // 2
    while half >= smallest:
        row_decay, row_seq = _later_blocks(half, log_decay, seq_idx.view(-1, 1), reverse=reverse)
        column_decay, column_seq = _earlier_blocks(half, log_decay, seq_idx.view(-1, 1), reverse=reverse)
        boundary = column_seq[:, slice(0, 1) if reverse else slice(-1, None)]
        # Sums from the boundary on, not differences of sums over the chunk, which a strong decay elsewhere would round.
        row = (_up_to(half, reverse=reverse, like=log_decay) @ row_decay).masked_fill(row_seq != boundary, -torch.inf).exp()
        column = _after(half, reverse=reverse, like=log_decay) @ column_decay
        halves.append(_BlockDecay(half, row, column.masked_fill(column_seq != boundary, -torch.inf).exp()))
        half //= 2
    return halves


def _up_to(size: int, *, reverse: bool, like: Tensor) -> Tensor:
    # [size, size]: 1 where j does not come after i in the direction of the scan
    ones = like.new_ones(size, size)
    return ones.triu() if reverse else ones.tril()


def _after(size: int, *, reverse: bool, like: Tensor) -> Tensor:
    # [size, size]: 1 where j comes after i in the direction of the scan
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
        scan = _Scan(x, dt, A, B, C, chunks, reverse=reverse)
        y = scan.intra_chunk()
        add_scaled_heads_(y, scan.x, D.expand(x.shape[1]))
        states = scan.chunk_states()
        scan.add_inter_chunk(y, states)
        y = y[: len(x)]
        ctx.save_for_backward(x, dt, A, B, C, D, y, states)
        ctx.chunks, ctx.reverse = chunks, reverse
        return y.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, dt, A, B, C, D, y, states = ctx.saved_tensors
        chunks, (length, heads, _) = ctx.chunks, x.shape
        scan = _Scan(x, dt, A, B, C, chunks, reverse=ctx.reverse)
        dy = chunks.pad(grad.reshape(length, -1))
        du, dB, dC = scan.intra_chunk_backward(dy)
        d_states = scan.chunk_states_backward(du, dB, dC, dy, states)

        # The decays act on y without its skip term.
        dy_x, du_x = sum_heads(dy * scan.x, heads), sum_heads(du * scan.x, heads)
        da = (sum_heads(dy * chunks.pad(y), heads) - D * dy_x - scan.dt * du_x).view(-1, chunks.size, heads)
        add_rows_(da[:, chunks.exit(reverse=ctx.reverse)], scan.source, sum_heads((d_states * states).sum(1), heads))
        d_log_decay = (scan.decays.cumsum_mask.mT @ da).view(-1, heads)

        dx = scale_heads_(du, scan.dt)
        add_scaled_heads_(dx, dy, D.expand(heads))
        dx = dx[:length].view_as(x)
        d_dt = (du_x + d_log_decay * A)[:length]
        dA = (d_log_decay * scan.dt).sum(0)
        return dx, d_dt, dA, dB[:length], dC[:length], dy_x.sum(0), None, None


class _Scan:
    """The inputs of a scan, padded to whole chunks, and their decays."""

    def __init__(self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunks: Chunks, *, reverse: bool) -> None:
        # [C Q, E], [C Q, H], [C Q, N], [C Q, N]
        self.x, self.dt, self.B, self.C = chunks.pad(x.flatten(1)), chunks.pad(dt), chunks.pad(B), chunks.pad(C)
        self.decays = _decays(self.dt * A, chunks, reverse=reverse)
        self.size, self.reverse = chunks.size, reverse
        self.source, self.target = chunks.source_and_target(reverse=reverse)
        self.dependencies = chunks.dependencies(reverse=reverse)

    def intra_chunk(self) -> Tensor:
        """Return the contribution of positions of the same chunk [C Q, E]."""
        base = self.decays.base
        x, dt, B, C = _blocks(base.size, self.x, self.dt, self.B, self.C)
        weights = (C @ B.mT).mul_(self.decays.base_mask)
        y = scale_heads_(weights @ scale_heads(x, base.column * dt), base.row).view_as(self.x)
        for block in self.decays.halves:
            row_y, row_C = _later_blocks(block.size, y, self.C, reverse=self.reverse)
            column_x, column_B, column_dt = _earlier_blocks(block.size, self.x, self.B, self.dt, reverse=self.reverse)
            product = (row_C @ column_B.mT) @ scale_heads(column_x, block.column * column_dt)
            add_scaled_heads_(row_y, product, block.row)
        return y

    def intra_chunk_backward(self, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of u = dt x, B and C from positions of the same chunk."""
        base = self.decays.base
        x, dt, B, C = _blocks(base.size, self.x, self.dt, self.B, self.C)
        scaled_dy = scale_heads(dy.view_as(x), base.row)
        weights = (C @ B.mT).mul_(self.decays.base_mask)
        du = scale_heads_(weights.mT @ scaled_dy, base.column).view_as(self.x)
        # Above the diagonal the factors can overflow to inf. Such entries are replaced, because 0 * inf is NaN.
        d_weights = scaled_dy @ scale_heads(x, base.column * dt).mT
        d_weights.masked_fill_(self.decays.base_mask.eq(0), 0.0)
        dC, dB = (d_weights @ B).view_as(self.C), (d_weights.mT @ C).view_as(self.B)
        for block in self.decays.halves:
            row_dy, row_C, row_dC = _later_blocks(block.size, dy, self.C, dC, reverse=self.reverse)
            column_x, column_B, column_dt, column_du, column_dB = _earlier_blocks(
                block.size, self.x, self.B, self.dt, du, dB, reverse=self.reverse
            )
            scaled_dy = scale_heads(row_dy, block.row)
            add_scaled_heads_(column_du, (row_C @ column_B.mT).mT @ scaled_dy, block.column)
            d_weights = scaled_dy @ scale_heads(column_x, block.column * column_dt).mT
            row_dC += d_weights @ column_B
            column_dB += d_weights.mT @ row_C
        return du, dB, dC

    def chunk_states(self) -> Tensor:
        """Return the state that each crossing passes to the next chunk [crossings, N, E]."""
        x, dt, B = (values[self.source] for values in _blocks(self.size, self.x, self.dt, self.B))
        states = B.mT @ scale_heads(x, self.decays.leaving * dt)
        for level, previous in self.dependencies:
            pass_states_(states, previous, level, self.decays.whole_chunk[level][:, None])
        return states

    def add_inter_chunk(self, y: Tensor, states: Tensor) -> None:
        """Add the contribution of the passed states to y."""
        y, C = _blocks(self.size, y, self.C)
        add_rows_(y, self.target, scale_heads_(C[self.target] @ states, self.decays.entering))

    def chunk_states_backward(self, du: Tensor, dB: Tensor, dC: Tensor, dy: Tensor, states: Tensor) -> Tensor:
        """Add the gradients through the chunk states to du, dB and dC; return the gradient of the states [crossings, N, E]."""
        du, dB, dC, dy, x, dt, B, C = _blocks(self.size, du, dB, dC, dy, self.x, self.dt, self.B, self.C)
        scaled_dy = scale_heads(dy[self.target], self.decays.entering)
        d_states = C[self.target].mT @ scaled_dy
        add_rows_(dC, self.target, scaled_dy @ states.mT)
        for level, previous in reversed(self.dependencies):
            pass_states_(d_states, level, previous, self.decays.whole_chunk[level][:, None])
        scaled_u = scale_heads(x[self.source], self.decays.leaving * dt[self.source])
        add_rows_(du, self.source, scale_heads_(B[self.source] @ d_states, self.decays.leaving))
        add_rows_(dB, self.source, scaled_u @ d_states.mT)
        return d_states


def _blocks(size: int, *tensors: Tensor) -> list[Tensor]:
    # [C Q, width] -> [blocks, size, width]
    return [tensor.view(-1, size, tensor.shape[-1]) for tensor in tensors]


def _later_blocks(size: int, *tensors: Tensor, reverse: bool) -> list[Tensor]:
    # the later block of each pair, in the direction of the scan: [C Q, width] -> [pairs, size, width]
    return [tensor.view(-1, 2, size, tensor.shape[-1])[:, 0 if reverse else 1] for tensor in tensors]


def _earlier_blocks(size: int, *tensors: Tensor, reverse: bool) -> list[Tensor]:
    return _later_blocks(size, *tensors, reverse=not reverse)
