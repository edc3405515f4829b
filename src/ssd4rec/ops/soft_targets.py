"""Soft targets: what knowledge distillation adds to the softmax cross-entropy, without storing the scores of all positions."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.ops.cross_entropy import (
    AddedLogits,
    FixedLogits,
    Kernels,
    ScoreFactors,
    check_added,
    check_targets,
    compiled,
    scaled_gradients,
    softmax_parts,
)
from ssd4rec.ops.segments import autocasts_to_bfloat16, promote_to_float32


class SoftTargets(NamedTuple):
    """The probabilities that a teacher gives to all items as the next one: the softmax of its scores.

    `distillation_loss` does not store them.
    """

    factors: ScoreFactors  # M rows, one per target; the teacher's width may differ
    weight: float = 1.0  # share of the loss that they have; the target itself has the rest
    fixed: FixedLogits | None = None  # added to the scores

    def probabilities(self) -> Tensor:
        """Return all of them at once, [M, V]: the definition."""
        states, table, added = self.factors
        scores, rows = states @ table.T, slice(0, len(states))
        if added is not None:
            added.add_to(scores, rows)
        if self.fixed is not None:
            scores = scores + self.fixed.block(rows)
        return scores.softmax(dim=1)


def distillation_loss_reference(
    states: Tensor, table: Tensor, targets: Tensor, soft: SoftTargets, added: AddedLogits | None = None
) -> Tensor:
    """Compute `distillation_loss` from all scores at once: the definition."""
    scores = states @ table.T
    if added is not None:
        cells, logits = added.logits(slice(0, len(states)))
        scores = scores.index_put((cells.row, cells.column), logits, accumulate=True)
    expected = (soft.probabilities().detach() * scores).sum(1)
    return (scores.gather(1, targets[:, None]).squeeze(1) - expected).mean()


def distillation_loss(
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    soft: SoftTargets,
    added: AddedLogits | None = None,
    kernels: Any = None,
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
        kernels: as in `linear_cross_entropy`.

    Returns:
        A scalar; differentiable in states, table and the coefficients of `added`. Memory O(block + V D).

    Raises:
        ShapeError: states, targets and prefixes differ in length.

    Source: Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network", with temperature 1.
    """
    check_added(states, added)
    check_targets(states, targets)
    check_targets(soft.factors.states, targets)
    device = states.device.type
    operands = torch.bfloat16 if autocasts_to_bfloat16(device) else states.dtype
    with torch.autocast(device, enabled=False):
        states, table = promote_to_float32(states, table)
        added = added and added.to(states.dtype)
        coefficients = added and added.coefficients
        teacher = soft.factors.to(states.dtype)
        return _DistillationLoss.apply(
            states, table, targets, coefficients, added, teacher, soft.fixed, operands, compiled(kernels)
        )


class _DistillationLoss(torch.autograd.Function):
    """Compute the gradients together with the loss.

    The score of the target minus the expected score is

        state . (row of the target - expected row) + coefficients . (features of the target - expected features)

    so it is computed from its gradients, which are those of a cross-entropy with the teacher's softmax and the opposite sign.
    """

    @staticmethod
    def forward(  # noqa: PLR0913 - apply takes no keywords
        ctx: Any,
        states: Tensor,
        table: Tensor,
        targets: Tensor,
        coefficients: Tensor | None,
        added: AddedLogits | None,
        teacher: ScoreFactors,
        fixed: FixedLogits | None,
        operands: torch.dtype,
        kernels: Kernels,
    ) -> Tensor:
        parts = softmax_parts(ScoreFactors(states, table, added), targets, operands, kernels, teacher, fixed)
        loss = -(states * parts.states).sum()
        if coefficients is not None and parts.coefficients is not None:
            loss -= (coefficients * parts.coefficients).sum()
        ctx.save_for_backward(parts.states, parts.table, parts.coefficients)
        ctx.rows = len(states)
        return loss / ctx.rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *scaled_gradients(ctx.saved_tensors, -grad / ctx.rows), None, None, None, None, None
