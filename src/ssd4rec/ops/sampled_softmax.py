"""Sampled softmax cross-entropy, for catalogs that are too large to score every item.

    loss_i = -s_i,t + log( exp(s_i,t) + sum over negatives j != t of exp(s_i,j) / E[j] )

Dividing by E[j], the expected count of item j among the negatives of a batch (the log Q correction), makes the sum an unbiased
estimate of the sum over the whole catalog. All rows share the negatives. If each item is a negative exactly once, this is the
full softmax loss.

Source: Bengio and Senecal 2008 (importance sampling of the partition function); Yi et al. 2019 (the correction in a recommender).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.errors import ShapeError
from ssd4rec.ops.cross_entropy import BLOCK_ELEMENTS, AddedLogits, check_added
from ssd4rec.ops.segments import promote_to_float32


@dataclass(frozen=True)
class NegativeSampler:
    """Draw negatives by systematic sampling with given expected counts.

    Items occupy intervals of a line, the most frequent first, whose lengths are their expected counts (at most 1).
    One point is drawn in each unit of the line: an item of length 1 is drawn exactly once, any other at most twice.
    """

    items: Tensor  # int64 [V], 0-based, the most frequent first
    edges: Tensor  # float64 [V]: end of each interval; the last edge is the number of negatives
    log_expected: Tensor  # float32 [V]: log E of each of them
    count: int  # negatives per draw

    def draw(self) -> tuple[Tensor, Tensor]:
        """Draw the negatives of one batch, always on the CPU, so that a seed gives the same negatives on every device.

        Returns:
            int64 [count] 0-based items, and float32 [count] the log of their expected counts.
        """
        points = torch.arange(self.count) + torch.rand(self.count, dtype=torch.float64)
        index = torch.searchsorted(self.edges, points, right=True).clamp_(max=len(self.edges) - 1)
        return self.items[index], self.log_expected[index]


def make_negative_sampler(counts: Tensor, power: float, negatives: int) -> NegativeSampler:
    """Sample by popularity: E[j] = min(1, c counts[j]^power), with c chosen such that the sum is `negatives`.

    Args:
        counts: [V] training interactions of each item; at least 1 is used, so that every item can be drawn.
        power: 0: uniform; 1: proportional to popularity.
        negatives: per draw; at V or more, each item is drawn exactly once.
    """
    weights, items = counts.double().clamp(min=1).pow(power).sort(descending=True, stable=True)
    size, count = len(weights), min(negatives, len(weights))
    # With the first n items at E = 1, c = (count - n) / (sum of the other weights); use the smallest n that leaves no E above 1.
    tail = weights.flip(0).cumsum(0).flip(0)
    scale = (count - torch.arange(size, dtype=torch.float64)) / tail
    certain = int((scale * weights > 1).long().cumprod(0).sum())
    expected = torch.ones_like(weights)
    if certain < size:
        expected[certain:] = (scale[certain] * weights[certain:]).clamp(max=1)
    edges = expected.cumsum(0)
    edges[:certain] = torch.arange(1, certain + 1, dtype=torch.float64)
    return NegativeSampler(items, edges, expected.log().float(), count)


def sampled_cross_entropy(
    states: Tensor,
    target_rows: Tensor,
    targets: Tensor,
    negative_rows: Tensor,
    negatives: Tensor,
    log_expected: Tensor,
    added: AddedLogits | None = None,
) -> Tensor:
    """Compute the mean sampled softmax loss without storing the scores of all rows.

    Args:
        states: [M, D].
        target_rows: [M, D], the vectors of the targets.
        targets: int64 [M], the target items; a negative that equals the target of a row is masked in that row.
        negative_rows: [K, D], the vectors of the negatives.
        negatives: int64 [K].
        log_expected: [K], log E of each negative.
        added: logits of the items of each row's prefix, for targets and negatives (item indices from 1); None: nothing is added.

    Returns:
        The loss, a scalar; differentiable in states, target_rows, negative_rows and the coefficients of `added`. Memory
        O(block + (M + K) D).

    Raises:
        ShapeError: the rows and items differ in length.
    """
    check_added(states, added)
    if not (states.shape == target_rows.shape and targets.shape == states.shape[:1]):
        raise ShapeError(
            f"states [M, D], target_rows [M, D] and targets [M] must have the same length, found {tuple(states.shape)}, "
            f"{tuple(target_rows.shape)} and {tuple(targets.shape)}"
        )
    if not negatives.shape == negative_rows.shape[:1] == log_expected.shape:
        raise ShapeError(
            f"negative_rows [K, D], negatives [K] and log_expected [K] must have the same length, found "
            f"{tuple(negative_rows.shape)}, {tuple(negatives.shape)} and {tuple(log_expected.shape)}"
        )
    with torch.autocast(states.device.type, enabled=False):
        states, target_rows, negative_rows = promote_to_float32(states, target_rows, negative_rows)
        correction = log_expected.to(states.dtype)
        added = added and added.to(states.dtype)
        return _SampledCrossEntropy.apply(
            states, target_rows, targets, negative_rows, negatives, correction, added and added.coefficients, added
        )


def sampled_cross_entropy_reference(
    states: Tensor,
    target_rows: Tensor,
    targets: Tensor,
    negative_rows: Tensor,
    negatives: Tensor,
    log_expected: Tensor,
    added: AddedLogits | None = None,
) -> Tensor:
    """Compute `sampled_cross_entropy` from all scores at once: the definition."""
    target_scores = (states * target_rows).sum(1, keepdim=True)
    others = states @ negative_rows.T - log_expected
    if added is not None:
        cells, logits = added.logits(slice(0, len(states)))
        table = states.new_zeros(len(states), 1 + int(max(targets.max(), negatives.max(), cells.column.max() + 1)))
        table = table.index_put((cells.row, cells.column + 1), logits)
        target_scores = target_scores + table.gather(1, targets[:, None])
        others = others + table[:, negatives]
    others = others.masked_fill(negatives == targets[:, None], -torch.inf)
    return (torch.cat([target_scores, others], dim=1).logsumexp(1) - target_scores[:, 0]).mean()


class _SampledLogits:
    """The added logits of one block of rows: of the targets, and of the negatives that are in a row's prefix."""

    def __init__(self, added: AddedLogits, rows: slice, targets: Tensor, negatives: Tensor) -> None:
        cells, features = added.cells(rows)
        self.coefficients = added.coefficients[rows]
        values = (self.coefficients[cells.row] * features).sum(1)
        item = cells.column + 1
        hit = item == targets[cells.row]
        self.target_row, self.target_features, self.of_targets = cells.row[hit], features[hit], values[hit]
        ordered, draw = negatives.sort()
        first = torch.searchsorted(ordered, item)
        times = torch.searchsorted(ordered, item, right=True) - first
        cell = torch.repeat_interleave(times)
        nth = torch.arange(len(cell), device=cell.device) - (times.cumsum(0) - times)[cell]
        self.row, self.draw = cells.row[cell], draw[first[cell] + nth]
        self.features, self.of_negatives = features[cell], values[cell]

    def add(self, target_scores: Tensor, others: Tensor) -> None:
        """Add them to the scores of the targets [rows, 1] and of the negatives [rows, K], in place."""
        target_scores[self.target_row, 0] += self.of_targets
        others[self.row, self.draw] += self.of_negatives

    def gradient(self, residual: Tensor, others: Tensor) -> Tensor:
        """Return the gradient of the block's coefficients; `residual` and `others` are the gradients of the scores."""
        out = torch.zeros_like(self.coefficients)
        out.index_add_(0, self.target_row, self.target_features * residual[self.target_row])
        return out.index_add_(0, self.row, self.features * others[self.row, self.draw, None])


class _SampledCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913 - the tensors of the loss
        ctx: Any,
        states: Tensor,
        target_rows: Tensor,
        targets: Tensor,
        negative_rows: Tensor,
        negatives: Tensor,
        log_expected: Tensor,
        coefficients: Tensor | None,
        added: AddedLogits | None,
    ) -> Tensor:
        d_coefficients = None if coefficients is None else torch.zeros_like(coefficients)
        rows, count = states.shape[0], negatives.shape[0]
        d_states, d_targets = torch.empty_like(states), torch.empty_like(target_rows)
        d_negatives = torch.zeros_like(negative_rows)
        loss = states.new_zeros(())
        size = max(BLOCK_ELEMENTS // count, 32)
        scratch = states.new_empty(min(size, rows), count)
        negatives32, targets32 = negatives.int(), targets.int()  # int32 compares faster than int64
        for start in range(0, rows, size):
            part = slice(start, start + size)
            block, block_targets = states[part], target_rows[part]
            others = torch.mm(block, negative_rows.T, out=scratch[: block.shape[0]])
            others -= log_expected
            others.masked_fill_(negatives32 == targets32[part, None], -torch.inf)
            score = (block * block_targets).sum(dim=1, keepdim=True)
            logits = None if added is None else _SampledLogits(added, part, targets[part], negatives)
            if logits is not None:
                logits.add(score, others)
            top = torch.maximum(score, others.amax(dim=1, keepdim=True))
            others -= top
            score = score - top
            total = others.exp_().sum(dim=1, keepdim=True) + score.exp()
            loss += (total.log() - score).sum()
            others /= total
            residual = score.exp() / total - 1  # probability of the target minus 1
            if logits is not None and d_coefficients is not None:
                d_coefficients[part] = logits.gradient(residual, others)
            torch.mm(others, negative_rows, out=d_states[part])
            d_states[part].addcmul_(residual, block_targets)
            torch.mul(block, residual, out=d_targets[part])
            d_negatives.addmm_(others.T, block)
        ctx.save_for_backward(d_states, d_targets, d_negatives, d_coefficients)
        ctx.rows = rows
        return loss / rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        d_states, d_targets, d_negatives, d_coefficients = ctx.saved_tensors
        scale = grad / ctx.rows
        of_coefficients = None if d_coefficients is None else d_coefficients * scale
        return d_states * scale, d_targets * scale, None, d_negatives * scale, None, None, of_coefficients, None
