"""Softmax cross-entropy over the whole catalog without ever holding the scores of all positions.

A block of rows is scored, and its scores are turned into weights in place and into both gradients at once; then the next block
uses the same memory. The gradient is therefore ready when the forward pass ends, and backward only scales it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ssd4rec.errors import ShapeError
from ssd4rec.ops.repeats import PrefixItems, RepeatCells
from ssd4rec.ops.segments import promote_to_float32

BLOCK_ELEMENTS = 1 << 23  # scores held at once: 32 MiB in float32
TILE_ELEMENTS = 1 << 20  # scores made by one product, and used at once
LEAST_ROWS, MOST_ROWS = 64, 512  # of a block: fewer make thin products, more gain nothing
SAFE_SCORE = 60.0  # exp(+-60) is far from both ends of float32
SAFE_ADDED = 20.0  # as much may be added to a safe score, or taken off: exp(+-80) is still a normal float32


@dataclass(frozen=True)
class AddedLogits:
    """Logits that are added to the cells of a score table [M, V] whose item is in the row's prefix.

    Cell (i, j) gets `coefficients[i] . features`, with the features of item j in prefix i. Only these cells exist, and only
    those of one block of rows at a time.
    """

    coefficients: Tensor  # [M, F]
    prefixes: PrefixItems  # M of them

    def cells(self, rows: slice) -> tuple[RepeatCells, Tensor]:
        """Return the cells of a block of rows and their features [n, F], on the device of the coefficients."""
        cells = self.prefixes.cells(rows).to(self.coefficients.device)
        return cells, repeat_features(cells, self.coefficients)

    def add_to(self, scores: Tensor, rows: slice) -> None:
        """Add the logits of a block of rows to their scores [rows, V], in place."""
        cells, features = self.cells(rows)
        logits = (self.coefficients[rows][cells.row] * features).sum(1)
        scores[cells.row, cells.column] += logits.to(scores.dtype)  # no cell occurs twice


def repeat_features(cells: RepeatCells, coefficients: Tensor) -> Tensor:
    """Return [n, F]: 1, and with F = 3 also log(1 + gap) and log(count).

    Args:
        cells: of the table.
        coefficients: [M, F], of which only the number of columns and the type are read.
    """
    gap, count = cells.gap.to(coefficients.dtype), cells.count.to(coefficients.dtype)
    features = (torch.ones_like(gap), torch.log1p(gap), torch.log(count))
    return torch.stack(features[: coefficients.shape[1]], dim=1)


def linear_cross_entropy_definition(states: Tensor, table: Tensor, targets: Tensor, added: AddedLogits | None = None) -> Tensor:
    """The definition: all scores at once; see `linear_cross_entropy`."""
    scores = states @ table.T
    if added is not None:
        cells, features = added.cells(slice(0, len(states)))
        logits = (added.coefficients[cells.row] * features).sum(1)
        scores = scores.index_put((cells.row, cells.column), logits, accumulate=True)
    return F.cross_entropy(scores, targets)


def linear_cross_entropy(states: Tensor, table: Tensor, targets: Tensor, added: AddedLogits | None = None) -> Tensor:
    """Mean over the rows of -log softmax(state . table^T + added logits)[target].

    Args:
        states: [M, D], one row a target.
        table: [V, D], one row a class.
        targets: int64 [M], 0-based rows of the table.
        added: logits of the items of each row's prefix; None: nothing is added.

    Returns:
        The loss, a scalar; differentiable in states, table and the coefficients of `added`. Memory O(block + V D). Under
        autocast to bfloat16 the operands and the results of the products are bfloat16, all sums over tiles float32.

    Raises:
        ShapeError: not one target, or not one prefix, a row.
    """
    check_added(states, added)
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
        coefficients = None if added is None else added.coefficients.to(states.dtype)
        prefixes = None if added is None else added.prefixes
        learning = torch.is_grad_enabled()
        loss: Tensor = _LinearCrossEntropy.apply(states, table, targets, coefficients, prefixes, operands, learning)  # type: ignore[no-untyped-call]  # torch has no types here
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


def check_added(states: Tensor, added: AddedLogits | None) -> None:
    """Check that added logits fit the states.

    Raises:
        ShapeError: not one row of coefficients, or not one prefix, a state.
    """
    if added is not None and not len(states) == len(added.coefficients) == len(added.prefixes):
        raise ShapeError(
            f"added logits need one row of coefficients and one prefix for each of the {len(states)} states, found "
            f"{len(added.coefficients)} and {len(added.prefixes)}"
        )


class _BlockLogits:
    """The added logits of one block of rows, grouped by the tile that their cells lie in.

    The scores of a block lie tile after tile in one flat memory; `places` are the cells' places there, rising from tile to tile.
    """

    def __init__(self, added: AddedLogits, rows: slice, targets: Tensor, tile_width: int, classes: int) -> None:
        cells, features = added.cells(rows)
        coefficients = added.coefficients[rows]
        count = len(coefficients)
        tile = torch.div(cells.column, tile_width, rounding_mode="floor")
        order = tile.argsort(stable=True)
        self.row, column, tile = cells.row[order], cells.column[order], tile[order]
        self.features = features[order]
        first = tile * tile_width
        width = (first + tile_width).clamp(max=classes) - first
        self.places = count * first + self.row * width + column - first
        self.values = (coefficients[self.row] * self.features).sum(1)
        self.is_target = column == targets[self.row]
        self.coefficients = coefficients
        tiles = -(-classes // tile_width)
        self.edges = torch.searchsorted(tile, torch.arange(tiles + 1, device=tile.device)).tolist()

    def fits_unshifted(self) -> bool:
        """Whether a score that is safe stays so."""
        return not len(self.values) or float(self.values.abs().amax()) <= SAFE_ADDED

    def add(self, scores: Tensor, tile: int) -> None:
        """Add the logits of one tile to the flat scores of the block, in place."""
        part = slice(self.edges[tile], self.edges[tile + 1])
        scores[self.places[part]] += self.values[part].to(scores.dtype)  # no place occurs twice

    def of_targets(self) -> Tensor:
        """Return the sum of the logits that were added to targets."""
        return (self.values * self.is_target).sum()

    def gradient(self, weights: Tensor, total: Tensor) -> Tensor:
        """Return the gradient of the block's coefficients from the flat softmax weights and their sums [rows, 1]."""
        errors = weights[self.places].to(total.dtype) / total[self.row, 0] - self.is_target.to(total.dtype)
        return torch.zeros_like(self.coefficients).index_add_(0, self.row, self.features * errors[:, None])


class _LinearCrossEntropy(torch.autograd.Function):
    """Both gradients beside the loss.

    With the weights e_ij = exp(score_ij - shift_i) and total_i = sum_j e_ij,

        d_state_i = (sum_j e_ij row_j) / total_i - (row of the target)
        d_row_j = sum_i e_ij (state_i / total_i) - (states whose target it is)

    The weights e are made and used tile by tile, while they are in the cache; no pass divides them. Logits are added to the
    scores of a tile before they become weights, so that the sums are those of the changed scores, without any cancellation.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        table: Tensor,
        targets: Tensor,
        coefficients: Tensor | None,
        prefixes: PrefixItems | None,
        operands: torch.dtype,
        wanted: bool,  # noqa: FBT001
    ) -> Tensor:
        rows, (classes, width) = states.shape[0], table.shape
        factors = table.to(operands)
        learning = wanted and any(ctx.needs_input_grad)  # needed, says torch under no_grad too
        size = min(max(BLOCK_ELEMENTS // classes, LEAST_ROWS), MOST_ROWS, max(rows, 1))
        step = max(TILE_ELEMENTS // size, 1)
        spans = [slice(start, min(start + step, classes)) for start in range(0, classes, step)]
        scratch = factors.new_empty(size * classes)
        cannot_overflow = _cannot_overflow(states, table)
        added = None if coefficients is None or prefixes is None else AddedLogits(coefficients, prefixes)
        d_coefficients = None if coefficients is None else torch.zeros_like(coefficients)
        loss = states.new_zeros(())
        d_states, d_columns = torch.zeros_like(states), table.new_zeros(width, classes)
        for start in range(0, rows, size):
            block, asked = states[start : start + size], table[targets[start : start + size]]
            left, count = block.to(operands), block.shape[0]
            tiles = [scratch[count * span.start : count * span.stop].view(count, -1) for span in spans]
            total, d_block = states.new_zeros(count, 1), d_states[start : start + count]
            shift: Tensor | None = None
            part = slice(start, start + count)
            logits = None if added is None else _BlockLogits(added, part, targets[part], step, classes)
            unshifted = cannot_overflow and (logits is None or logits.fits_unshifted())
            for number, (span, tile) in enumerate(zip(spans, tiles, strict=True)):
                torch.mm(left, factors[span].T, out=tile)
                if logits is not None:
                    logits.add(scratch, number)
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
            if logits is not None:
                loss -= logits.of_targets()
            if learning:
                if logits is not None and d_coefficients is not None:
                    d_coefficients[part] = logits.gradient(scratch, total)
                d_block.div_(total).sub_(asked)
                shares = (block / total).T.to(operands)
                for span, tile in zip(spans, tiles, strict=True):
                    _add_product(d_columns[:, span], shares, tile)
        d_table = d_columns.T.contiguous()
        if learning:
            d_table.index_add_(0, targets, states, alpha=-1)
        ctx.save_for_backward(d_states, d_table, d_coefficients)
        ctx.rows = rows
        return loss / rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        d_states, d_table, d_coefficients = ctx.saved_tensors
        scale = grad / ctx.rows
        of_coefficients = None if d_coefficients is None else d_coefficients * scale
        return d_states * scale, d_table * scale, None, of_coefficients, None, None, None


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
