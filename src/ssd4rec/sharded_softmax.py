"""Exact softmax cross-entropy with an item table whose rows are spread over processes; see `sharded_table`.

Each process scores its own items, so no process sees V scores of a state; three exchanges for each block of states make them one
softmax. The gradients are computed together with the loss, as in `ops.cross_entropy`.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.array_types import Items
from ssd4rec.distributed import World
from ssd4rec.ops.cross_entropy import AddedLogits, check_added

SCORES = 1 << 23  # scores in memory at once


def sharded_cross_entropy(
    states: Tensor, weight: Tensor, targets: Items, world: World, added: AddedLogits | None = None
) -> Tensor:
    """Return the mean of -log softmax over all V items, and over the targets of all processes.

    Args:
        states: [M, D] of this process; M may differ between processes and be 0.
        weight: the rows of this process: those of the items i with i modulo the number of processes = rank. Row 0, the mask, is
            never scored.
        targets: int64 [M], 1 … V.
        world: the processes; all of them call this together.
        added: logits of the items of each state's prefix, with all of them or with none.

    Raises:
        ShapeError: states and prefixes differ in length.
    """
    check_added(states, added)
    coefficients = None if added is None else added.coefficients.to(states.dtype)
    return _CrossEntropy.apply(states, weight, targets, world, coefficients, added)


class _BlockCells(NamedTuple):
    """The added logits of a block of states, of all processes; each process uses those of its own items."""

    begin: int  # of this process's cells among all of them
    row_here: Tensor  # int64 [n] states of this process
    features: Tensor  # [n, F] of this process's cells
    values: Tensor  # [N] logits of all cells
    scored: Tensor  # int64 [n'] those of this process's items
    row: Tensor  # int64 [n'] in the block
    column: Tensor  # int64 [n'] among this process's scored items
    is_target: Tensor  # bool [n']


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        targets: Tensor,
        world: World,
        coefficients: Tensor | None,
        added: AddedLogits | None,
    ) -> Tensor:
        every, counts = world.all_rows(states.detach())
        item = world.all_rows(targets[:, None])[0][:, 0]
        mine = item % world.size == world.rank
        first = 1 if world.rank == 0 else 0  # the mask is on the first process
        scored = weight[first:]
        added = None if coefficients is None or added is None else replace(added, coefficients=coefficients.detach())
        d_every, d_weight = torch.zeros_like(every), torch.zeros_like(weight)
        d_coefficients = None if coefficients is None else torch.zeros_like(coefficients)
        begin, loss = sum(counts[: world.rank]), every.new_zeros(())
        size = max(SCORES // (len(range(0, world.total(len(weight)), world.size))), 1)  # equal on all processes
        for start in range(0, len(every), size):
            part = slice(start, min(start + size, len(every)))
            block, own = every[part], mine[part]
            rows = item[part] // world.size
            scores = block @ scored.T
            cells = None if added is None else _gather_cells(added, part, begin, item[part], world)
            if cells is not None:
                scores[cells.row, cells.column] += cells.values[cells.scored]  # no cell occurs twice
            top = scores.amax(dim=1) if len(scored) else block.new_full((len(block),), -torch.inf)
            world.max_(top)
            hit = torch.zeros_like(top)
            hit[own] = (block[own] * weight[rows[own]]).sum(1)
            if cells is not None:
                hit[cells.row[cells.is_target]] += cells.values[cells.scored[cells.is_target]]
            weights = scores.sub_(top[:, None]).exp_()
            total = weights.sum(dim=1)
            world.sum_([total, hit])
            loss += (total.log() + top - hit).sum()
            weights /= total[:, None]
            d_every[part] = weights @ scored
            d_every[part][own] -= weight[rows[own]]
            d_weight[first:].addmm_(weights.T, block)
            d_weight.index_add_(0, rows[own], block[own], alpha=-1)
            if cells is not None and d_coefficients is not None:
                _add_gradient(d_coefficients, cells, weights, world)
        world.sum_([d_every])
        count = max(len(every), 1)
        d_coefficients = None if d_coefficients is None else d_coefficients / count
        ctx.save_for_backward(d_every[begin : begin + len(states)] / count, d_weight / count, d_coefficients)
        return loss / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        d_states, d_weight, d_coefficients = ctx.saved_tensors
        of_coefficients = None if d_coefficients is None else d_coefficients * grad
        return d_states * grad, d_weight * grad, None, None, of_coefficients, None


def _gather_cells(added: AddedLogits, part: slice, begin: int, targets: Items, world: World) -> _BlockCells:
    """Exchange the cells of a block: the states `part` of those of all processes, among which this process's begin at `begin`.

    The logits are those of this process's states; the targets, int64 [block], those of the block's.
    """
    here = slice(*(min(max(edge - begin, 0), len(added.prefixes)) for edge in (part.start, part.stop)))
    cells, features = added.cells(here)
    row_here = cells.row + here.start
    values = (added.coefficients[row_here] * features).sum(1)
    (places, counts), (every_value, _) = (
        world.all_rows(each) for each in (torch.stack([row_here + begin - part.start, cells.column + 1], 1), values[:, None])
    )
    row, item = places.unbind(1)
    scored = (item % world.size == world.rank).nonzero()[:, 0]
    row, item = row[scored], item[scored]
    column = item // world.size - (1 if world.rank == 0 else 0)
    offset = sum(counts[: world.rank])
    return _BlockCells(offset, row_here, features, every_value[:, 0], scored, row, column, item == targets[row])


def _add_gradient(d_coefficients: Tensor, cells: _BlockCells, weights: Tensor, world: World) -> None:
    """Add the gradients of the coefficients of this process's states, from normalized softmax weights of its items."""
    errors = torch.zeros_like(cells.values)
    errors[cells.scored] = weights[cells.row, cells.column] - cells.is_target.to(weights.dtype)
    world.sum_([errors])
    own = errors[cells.begin : cells.begin + len(cells.row_here)]
    d_coefficients.index_add_(0, cells.row_here, cells.features * own[:, None])
