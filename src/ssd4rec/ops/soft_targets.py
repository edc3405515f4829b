"""Soft targets: what knowledge distillation adds to the softmax cross-entropy, without storing the scores of all positions."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.ops.cross_entropy import BLOCK_ELEMENTS, AddedLogits, add_product, check_added, check_targets
from ssd4rec.ops.segments import autocasts_to_bfloat16, promote_to_float32

MAX_ROWS = 512  # of a block


@dataclass(frozen=True)
class SoftTargets:
    """The probabilities that a teacher gives to all items as the next one.

    They are the softmax of states @ table.T + added, and are computed for a block of rows at a time.
    """

    states: Tensor  # [M, D'], one row per target
    table: Tensor  # [V, D']
    added: AddedLogits | None = None
    weight: float = 1.0  # share of the loss that they have; the target itself has the rest

    def probabilities(self, rows: slice, dtype: torch.dtype | None = None) -> Tensor:
        """Return the probabilities of a block of rows, [rows, V]; `dtype` is that of the product, by default of the states."""
        dtype = dtype or self.states.dtype
        scores = (self.states[rows].to(dtype) @ self.table.T.to(dtype)).to(self.states.dtype)
        if self.added is not None:
            self.added.add_to(scores, rows)
        return scores.softmax(dim=1)


def distillation_loss_reference(
    states: Tensor, table: Tensor, targets: Tensor, soft: SoftTargets, added: AddedLogits | None = None
) -> Tensor:
    """Compute `distillation_loss` from all scores at once: the definition."""
    scores = states @ table.T
    if added is not None:
        cells, logits = added.logits(slice(0, len(states)))
        scores = scores.index_put((cells.row, cells.column), logits, accumulate=True)
    expected = (soft.probabilities(slice(0, len(states))).detach() * scores).sum(1)
    return (scores.gather(1, targets[:, None]).squeeze(1) - expected).mean()


def distillation_loss(
    states: Tensor, table: Tensor, targets: Tensor, soft: SoftTargets, added: AddedLogits | None = None
) -> Tensor:
    """Return what soft targets add to the mean cross-entropy, per unit of their weight.

    The cross-entropy of a distribution q is the log normalizer minus the score that is expected under q. With the weight w,
    q = (1 - w) (target) + w (soft targets): the log normalizer is unchanged, and the loss grows by
    w (score of the target - expected score).

    Args:
        states: [M, D], one row per target.
        table: [V, D], one row per class.
        targets: int64 [M], 0-based rows of the table.
        soft: M rows of probabilities; no gradient flows to them.
        added: logits of the items of each row's prefix; None: nothing is added.

    Returns:
        A scalar; differentiable in states, table and the coefficients of `added`. Memory O(block + V D).

    Raises:
        ShapeError: states, targets and prefixes differ in length.

    Source: Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network", with temperature 1.
    """
    check_added(states, added)
    check_targets(states, targets)
    check_targets(soft.states, targets)
    device = states.device.type
    operands = torch.bfloat16 if autocasts_to_bfloat16(device) else states.dtype
    with torch.autocast(device, enabled=False):
        states, table = promote_to_float32(states, table)
        added = added and added.to(states.dtype)
        return _DistillationLoss.apply(states, table, targets, added and added.coefficients, added, soft, operands)


class _DistillationLoss(torch.autograd.Function):
    """Compute all gradients together with the loss.

    The score of the target minus the expected score is

        state . (row of the target - expected row) + coefficients . (features of the target - expected features)

    so the differences in brackets are the gradients of the state and of the coefficients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        table: Tensor,
        targets: Tensor,
        coefficients: Tensor | None,
        added: AddedLogits | None,
        soft: SoftTargets,
        operands: torch.dtype,
    ) -> Tensor:
        factors = table.to(operands)
        d_states = table[targets]
        d_columns = table.new_zeros(table.shape[::-1])  # [D, V], minus the expected part of the gradient of the table
        d_coefficients = None if coefficients is None else torch.zeros_like(coefficients)
        for rows in _blocks(len(states), len(table)):
            weights = soft.probabilities(rows, operands)
            if added is not None and d_coefficients is not None:
                cells, features = added.cells(rows)
                share = (cells.column == targets[rows][cells.row]).to(features.dtype)
                share -= weights[cells.row, cells.column].to(features.dtype)
                d_coefficients[rows].index_add_(0, cells.row, features * share[:, None])
            weights = weights.to(operands)
            add_product(d_states[rows], -weights, factors)
            add_product(d_columns, states[rows].T.to(operands), weights)
        loss = (states * d_states).sum()
        if coefficients is not None and d_coefficients is not None:
            loss += (coefficients * d_coefficients).sum()
        d_table = d_columns.neg_().T.contiguous().index_add_(0, targets, states)
        ctx.save_for_backward(d_states, d_table, d_coefficients)
        ctx.rows = len(states)
        return loss / ctx.rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        d_states, d_table, d_coefficients = ctx.saved_tensors
        scale = grad / ctx.rows
        of_coefficients = None if d_coefficients is None else d_coefficients * scale
        return d_states * scale, d_table * scale, None, of_coefficients, None, None, None


def _blocks(rows: int, classes: int) -> Iterator[slice]:
    size = min(max(BLOCK_ELEMENTS // classes, 1), MAX_ROWS)
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))
