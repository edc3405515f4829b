"""Softmax cross-entropy over the whole catalog without ever holding the scores of all positions.

A block of rows is scored, and its scores are turned into weights in place and into both gradients at once; then the next block
uses the same memory. The gradient is therefore ready when the forward pass ends, and backward only scales it.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ssd4rec.errors import ShapeError
from ssd4rec.ops.segments import promote_to_float32

BLOCK_ELEMENTS = 1 << 23  # scores held at once: 32 MiB in float32
TILE_ELEMENTS = 1 << 20  # scores made by one product, and used at once
LEAST_ROWS, MOST_ROWS = 64, 512  # of a block: fewer make thin products, more gain nothing
SAFE_SCORE = 60.0  # exp(+-60) is far from both ends of float32


def linear_cross_entropy_definition(states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """The definition: all scores at once; see `linear_cross_entropy`."""
    return F.cross_entropy(states @ table.T, targets)


def linear_cross_entropy(states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """Mean over the rows of -log softmax(state . table^T)[target].

    Args:
        states: [M, D], one row a target.
        table: [V, D], one row a class.
        targets: int64 [M], 0-based rows of the table.

    Returns:
        The loss, a scalar; differentiable in states and table. Memory O(block + V D). Under autocast to bfloat16 the operands
        and the results of the products are bfloat16, all sums over tiles float32.

    Raises:
        ShapeError: not one target a row.
    """
    if targets.shape != states.shape[:1]:
        raise ShapeError(
            f"states [M, D] and targets [M] must be of one length, found {tuple(states.shape)} and {tuple(targets.shape)}"
        )
    device = states.device.type
    halved = (
        torch.amp.is_autocast_available(device)
        and torch.is_autocast_enabled(device)
        and torch.get_autocast_dtype(device) == torch.bfloat16
    )
    with torch.autocast(device, enabled=False):
        states, table = promote_to_float32(states, table)
        operands = torch.bfloat16 if halved else states.dtype
        loss: Tensor = _LinearCrossEntropy.apply(states, table, targets, operands, torch.is_grad_enabled())  # type: ignore[no-untyped-call]  # torch has no types here
    return loss


def smoothing_loss(states: Tensor, asked: Tensor, table: Tensor) -> Tensor:
    """What smoothed labels add to a mean cross-entropy, for each unit of the share that all classes are given alike.

    With the share e of Szegedy et al. (2016, section 7) the target of row i has the probability 1 - e + e / V, every other class
    e / V. The normaliser is the same for all, so the loss grows by e (score of the target - mean score), which needs the mean row
    of the table alone.

    Args:
        states: [M, D].
        asked: [M, D], the rows of the table that are the targets.
        table: [V, D].

    Returns:
        A scalar; differentiable in all three.
    """
    return (states * (asked - table.mean(0))).sum(1).mean()


class _LinearCrossEntropy(torch.autograd.Function):
    """Both gradients beside the loss.

    With the weights e_ij = exp(score_ij - shift_i) and total_i = sum_j e_ij,

        d_state_i = (sum_j e_ij row_j) / total_i - (row of the target)
        d_row_j = sum_i e_ij (state_i / total_i) - (states whose target it is)

    The weights e are made and used tile by tile, while they are in the cache; no pass divides them.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, targets: Tensor, operands: torch.dtype, wanted: bool) -> Tensor:  # noqa: FBT001
        rows, (classes, width) = states.shape[0], table.shape
        factors = table.to(operands)
        learning = wanted and (ctx.needs_input_grad[0] or ctx.needs_input_grad[1])  # needed, says torch under no_grad too
        size = min(max(BLOCK_ELEMENTS // classes, LEAST_ROWS), MOST_ROWS, max(rows, 1))
        step = max(TILE_ELEMENTS // size, 1)
        spans = [slice(start, min(start + step, classes)) for start in range(0, classes, step)]
        scratch = factors.new_empty(size * classes)
        unshifted = _cannot_overflow(states, table)
        loss = states.new_zeros(())
        d_states, d_columns = torch.zeros_like(states), table.new_zeros(width, classes)
        for start in range(0, rows, size):
            block, asked = states[start : start + size], table[targets[start : start + size]]
            left, count = block.to(operands), block.shape[0]
            tiles = [scratch[count * span.start : count * span.stop].view(count, -1) for span in spans]
            total, d_block = states.new_zeros(count, 1), d_states[start : start + count]
            shift: Tensor | None = None
            for span, tile in zip(spans, tiles, strict=True):
                torch.mm(left, factors[span].T, out=tile)
                if unshifted:
                    _weigh(tile, factors[span], total, d_block, learning=learning)
                else:
                    peak = tile.amax(dim=1, keepdim=True)
                    shift = peak if shift is None else torch.maximum(shift, peak)
            if shift is not None:
                loss += shift.sum(dtype=loss.dtype)
                for span, tile in zip(spans, tiles, strict=True):
                    _weigh(tile.sub_(shift), factors[span], total, d_block, learning=learning)
            loss += total.log().sum() - (block * asked).sum()
            if learning:
                d_block.div_(total).sub_(asked)
                shares = (block / total).T.to(operands)
                for span, tile in zip(spans, tiles, strict=True):
                    _add_product(d_columns[:, span], shares, tile)
        d_table = d_columns.T.contiguous()
        if learning:
            d_table.index_add_(0, targets, states, alpha=-1)
        ctx.save_for_backward(d_states, d_table)
        ctx.rows = rows
        return loss / rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        d_states, d_table = ctx.saved_tensors
        scale = grad / ctx.rows
        return d_states * scale, d_table * scale, None, None, None


def _weigh(scores: Tensor, table: Tensor, total: Tensor, d_block: Tensor, *, learning: bool) -> None:
    """Turn a tile of scores into weights, and add what it gives to their total and to the gradient of the states."""
    weights = scores.exp_()
    total += weights.sum(dim=1, keepdim=True, dtype=total.dtype)
    if learning:
        _add_product(d_block, weights, table)


def _add_product(out: Tensor, left: Tensor, right: Tensor) -> None:
    if left.dtype == out.dtype:
        out.addmm_(left, right)
    else:
        out += left @ right


def _cannot_overflow(states: Tensor, table: Tensor) -> bool:
    # By Cauchy and Schwarz no score is longer than both norms: then exp(score) and its sums need no shift by the largest.
    # Only on a CPU, where a number can be looked at; another device would be waited for.
    if states.device.type != "cpu" or not states.numel():
        return False
    return float((states.norm(dim=1).amax() * table.norm(dim=1).amax()).detach()) <= SAFE_SCORE
