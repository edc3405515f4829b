"""Softmax cross-entropy over the whole catalogue without ever holding the scores of all positions.

A block of rows is scored, turned into probabilities in place and into both gradients at once; then the next block uses the same
memory. The gradient is therefore ready when the forward pass ends, and backward only scales it.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ssd4rec.errors import ShapeError
from ssd4rec.ops.segments import full

BLOCK_ELEMENTS = 1 << 20  # scores held at once: 4 MiB in float32, which stay in a core's cache


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
        The loss, a scalar; differentiable in states and table. Memory O(block + V D).
    """
    if targets.shape != states.shape[:1]:
        raise ShapeError(
            f"states [M, D] and targets [M] must be of one length, found {tuple(states.shape)} and {tuple(targets.shape)}"
        )
    with torch.autocast(states.device.type, enabled=False):
        states, table = full(states, table)
        loss: Tensor = _LinearCrossEntropy.apply(states, table, targets)  # type: ignore[no-untyped-call]  # torch has no types here
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        rows, classes = states.shape[0], table.shape[0]
        learning = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        d_states, d_table = torch.empty_like(states), torch.zeros_like(table)
        loss = states.new_zeros(())
        size = max(BLOCK_ELEMENTS // classes, 32)
        scratch = states.new_empty(min(size, rows), classes)
        for start in range(0, rows, size):
            block, target = states[start : start + size], targets[start : start + size, None]
            scores = torch.mm(block, table.T, out=scratch[: block.shape[0]])
            scores -= scores.amax(dim=1, keepdim=True)
            loss -= scores.gather(1, target).sum()
            total = scores.exp_().sum(dim=1, keepdim=True)
            loss += total.log().sum()
            if not learning:
                continue
            scores /= total
            scores.scatter_add_(1, target, scores.new_full((), -1.0).expand(target.shape))
            torch.mm(scores, table, out=d_states[start : start + size])
            d_table.addmm_(scores.T, block)
        ctx.save_for_backward(d_states, d_table)
        ctx.rows = rows
        return loss / rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        d_states, d_table = ctx.saved_tensors
        scale = grad / ctx.rows
        return d_states * scale, d_table * scale, None
