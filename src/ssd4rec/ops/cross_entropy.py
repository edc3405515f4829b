"""Softmax cross-entropy over the whole catalog without storing the scores of all positions.

The scores of a block of rows are turned into softmax weights in place and into both gradients at once; the next block reuses the
memory. The forward pass therefore computes the gradients too, and the backward pass only scales them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ssd4rec.errors import ShapeError
from ssd4rec.ops.repeats import PrefixItems, RepeatCells
from ssd4rec.ops.segments import autocasts_to_bfloat16, promote_to_float32

BLOCK_ELEMENTS = 1 << 23  # scores in memory at once: 32 MiB in float32
TILE_BYTES = 1 << 20  # of scores computed by one product and used while they are in the second-level cache of a CPU
DEVICE_TILE_ELEMENTS = 1 << 20  # the same on other devices, where every product costs a launch
MIN_ROWS, MAX_ROWS = 64, 512  # of a block: fewer make thin products, more do not help
COLUMNS = 64  # a tile of more has a multiple of this
ROWS_OF_ONE_TILE = 128  # with fewer rows, a tile of all columns makes thin products
SAFE_SCORE = 60.0  # exp(+-60) is far from both limits of float32
ALWAYS_COUNTED = 3  # features of repeats that need no transitions
SAFE_ADDED = 20.0  # added logits up to this size keep a safe score safe: exp(+-80) is still a normal float32


@dataclass(frozen=True)
class AddedLogits:
    """Logits that are added to the cells of a score table [M, V] whose item is in the row's prefix.

    Cell (i, j) gets `coefficients[i] . features`, with the features of item j in prefix i. Only these cells exist, and only
    those of one block of rows at a time.
    """

    coefficients: Tensor  # [M, F]
    prefixes: PrefixItems  # M of them
    log_popularity: Tensor | None = None  # [V + 1] by item index, on the device of the coefficients; needed if F is 5

    def to(self, dtype: torch.dtype) -> "AddedLogits":
        """Return the same logits with coefficients of a type."""
        return replace(self, coefficients=self.coefficients.to(dtype))

    def cells(self, rows: slice) -> tuple[RepeatCells, Tensor]:
        """Return the cells of a block of rows and their features [n, F], on the device of the coefficients."""
        transitions = self.coefficients.shape[1] > ALWAYS_COUNTED
        cells = self.prefixes.cells(rows, transitions=transitions).to(self.coefficients.device)
        return cells, self.features(cells)

    def features(self, cells: RepeatCells) -> Tensor:
        """Return the features of some cells, [n, F]: the first F of those of `layers.repeat_logits`."""
        dtype, count = self.coefficients.dtype, self.coefficients.shape[1]
        gap, occurrences = cells.gap.to(dtype), cells.occurrences.to(dtype)
        features = [torch.ones_like(gap), torch.log1p(gap), torch.log(occurrences)]
        if cells.transitions is not None:
            features.append(torch.log1p(cells.transitions.to(dtype)))
        if self.log_popularity is not None:
            features.append(self.log_popularity[cells.column + 1].to(dtype))
        return torch.stack(features[:count], dim=1)

    def logits(self, rows: slice) -> tuple[RepeatCells, Tensor]:
        """Return the cells of a block of rows and the logits that are added there [n]."""
        cells, features = self.cells(rows)
        return cells, (self.coefficients[rows][cells.row] * features).sum(1)

    def add_to(self, scores: Tensor, rows: slice) -> None:
        """Add the logits of a block of rows to their scores [rows, V], in place."""
        cells, logits = self.logits(rows)
        scores[cells.row, cells.column] += logits.to(scores.dtype)  # no cell occurs twice


def linear_cross_entropy_reference(states: Tensor, table: Tensor, targets: Tensor, added: AddedLogits | None = None) -> Tensor:
    """Compute `linear_cross_entropy` from all scores at once: the definition."""
    scores = states @ table.T
    if added is not None:
        cells, logits = added.logits(slice(0, len(states)))
        scores = scores.index_put((cells.row, cells.column), logits, accumulate=True)
    return F.cross_entropy(scores, targets)


def linear_cross_entropy(
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    added: AddedLogits | None = None,
    kernels: Any = None,
) -> Tensor:
    """Compute the mean of -log softmax(states @ table.T + added)[target].

    Args:
        states: [M, D], one row per target.
        table: [V, D], one row per class.
        targets: int64 [M], 0-based rows of the table.
        added: logits of the items of each row's prefix; None: nothing is added.
        kernels: a module with `BlockLogits` and `exp_and_sum_` for float32 and bfloat16; None: those of this module.

    Returns:
        The loss, a scalar; differentiable in states, table and the coefficients of `added`. Memory O(block + V D). Under
        autocast to bfloat16 the operands and results of the products are bfloat16, and all sums over tiles are float32.

    Raises:
        ShapeError: states, targets and prefixes differ in length.
    """
    check_added(states, added)
    check_targets(states, targets)
    device = states.device.type
    bfloat16 = autocasts_to_bfloat16(device)
    with torch.autocast(device, enabled=False):
        states, table = promote_to_float32(states, table)
        operands = torch.bfloat16 if bfloat16 else states.dtype
        added = added and added.to(states.dtype)
        return _LinearCrossEntropy.apply(
            states, table, targets, added and added.coefficients, added, operands, torch.is_grad_enabled(), compiled(kernels)
        )


def smoothing_loss(states: Tensor, target_rows: Tensor, table: Tensor) -> Tensor:
    """Return what label smoothing adds to the mean cross-entropy, per unit of smoothing. [M, D], [M, D], [V, D] -> scalar.

    With smoothing e, the target has the probability 1 - e + e / V and every other class e / V. The log normalizer is unchanged,
    so the loss grows by e (score of the target - mean score), and the mean score needs only the mean row of the table.
    `target_rows` are the rows of the table that belong to the targets.

    Source: Szegedy et al. 2016, "Rethinking the Inception architecture", section 7.
    """
    return (states * (target_rows - table.mean(0))).sum(1).mean()


def check_targets(states: Tensor, targets: Tensor) -> None:
    """Check that there is one target a state.

    Raises:
        ShapeError: states and targets differ in length.
    """
    if targets.shape != states.shape[:1]:
        raise ShapeError(
            f"states [M, D] and targets [M] must have the same length, found {tuple(states.shape)} and {tuple(targets.shape)}"
        )


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


class BlockLogits:
    """The added logits of one block of rows, grouped by the tile that their cells lie in.

    The scores of a block lie tile after tile in one flat memory; `places` are the cells' places there, rising from tile to tile.
    """

    def __init__(self, added: AddedLogits, rows: slice, targets: Tensor, tile_width: int, classes: int) -> None:
        cells, features = added.cells(rows)
        self.coefficients = added.coefficients[rows]
        self.row, column, self.features = cells.row, cells.column, features
        if classes <= tile_width:
            self.places, self.edges = self.row * classes + column, [0, len(column)]
        else:
            tile = torch.div(column, tile_width, rounding_mode="floor")
            order = tile.argsort(stable=True)
            self.row, column, tile, self.features = self.row[order], column[order], tile[order], features[order]
            first = tile * tile_width
            width = (first + tile_width).clamp(max=classes) - first
            self.places = len(self.coefficients) * first + self.row * width + column - first
            tiles = -(-classes // tile_width)
            self.edges = torch.searchsorted(tile, torch.arange(tiles + 1, device=tile.device)).tolist()
        self.values = (self.coefficients[self.row] * self.features).sum(1)
        self.is_target = column == targets[self.row]

    def fits_unshifted(self) -> bool:
        """Whether a score that is safe stays so."""
        return not len(self.values) or float(self.values.abs().amax()) <= SAFE_ADDED

    def add(self, scores: Tensor, tile: int) -> None:
        """Add the logits of one tile to the flat scores of the block, in place."""
        part = slice(self.edges[tile], self.edges[tile + 1])
        scores[self.places[part]] += self.values[part].to(scores.dtype)  # no place occurs twice

    def of_targets(self) -> Tensor | float:
        """Return the sum of the logits that were added to targets."""
        return (self.values * self.is_target).sum()

    def gradient(self, weights: Tensor, total: Tensor) -> Tensor:
        """Return the gradient of the block's coefficients from the flat softmax weights and their sums [rows, 1]."""
        errors = weights[self.places].to(total.dtype) / total[self.row, 0] - self.is_target.to(total.dtype)
        return torch.zeros_like(self.coefficients).index_add_(0, self.row, self.features * errors[:, None])


class ScoreFactors(NamedTuple):
    """What scores are computed from: states @ table.T + added."""

    states: Tensor  # [M, D]
    table: Tensor  # [V, D]
    added: AddedLogits | None = None

    def to(self, dtype: torch.dtype) -> "ScoreFactors":
        """Return the same with factors of a type."""
        return ScoreFactors(self.states.to(dtype), self.table.to(dtype), self.added and self.added.to(dtype))


@runtime_checkable
class FixedLogits(Protocol):
    """Logits of a score table [M, V] that have no gradient, computed for a few rows at a time."""

    def block(self, rows: slice) -> Tensor:
        """Return the logits of a block of rows, [rows, V]."""


class Kernels(NamedTuple):
    """The parts of the loss that are compiled for a CPU where possible."""

    block_logits: Callable[..., BlockLogits]
    exp_and_sum_: Callable[[Tensor, Tensor], None]


def compiled(kernels: Any) -> Kernels:
    """Return the parts of a module of kernels; None: those of this module."""
    return Kernels(BlockLogits, exp_and_sum_) if kernels is None else Kernels(kernels.BlockLogits, kernels.exp_and_sum_)


class SoftmaxParts(NamedTuple):
    """Of the cross-entropy summed over M rows: its two parts, and its gradients."""

    log_normalizers: Tensor  # scalar, sum of log sum_j exp(score_ij)
    target_scores: Tensor  # scalar, sum of the scores of the targets
    states: Tensor  # [M, D] expected row of the table minus the row of the target
    table: Tensor  # [V, D] sum of the weighted states minus the states whose target it is
    coefficients: Tensor | None  # [M, F] expected features minus those of the target


def softmax_parts(  # noqa: PLR0915 - one pass over the blocks
    scores: ScoreFactors,
    targets: Tensor,
    operands: torch.dtype,
    kernels: Kernels,
    teacher: ScoreFactors | None = None,
    fixed: FixedLogits | None = None,
    *,
    with_gradients: bool = True,
) -> SoftmaxParts:
    """Compute the summed cross-entropy and its gradients without storing the scores of all rows.

    With the weights e_ij = exp(score_ij - shift_i) and total_i = sum_j e_ij,

        d_state_i = (sum_j e_ij row_j) / total_i - (row of the target)
        d_row_j = sum_i e_ij (state_i / total_i) - (states whose target it is)

    The weights e are computed and used tile by tile while they are in the cache; they are never normalized. Logits are added to
    the scores of a tile before the exponential, so that no cancellation occurs.

    Args:
        scores: M rows, V columns; of one floating-point type, float32 or float64.
        targets: int64 [M], 0-based rows of the table.
        operands: type of the operands of products.
        kernels: the compiled parts.
        teacher: scores of another model, whose weights e and log normalizers take the place of those of `scores`; None: none.
        fixed: logits that are added to the scores of the teacher; None: none.
        with_gradients: whether the gradients are computed.
    """
    states, table, added = scores
    by_states, by_table, by_added = teacher or scores
    rows, (classes, width) = states.shape[0], table.shape
    factors = table.to(operands)
    by_factors = factors if by_table is table else by_table.to(operands)

    size, step = _tile_shape(rows, factors, ordered=added is not None or by_added is not None)
    spans = [slice(start, min(start + step, classes)) for start in range(0, classes, step)]
    scratch = factors.new_empty(size * classes)
    cannot_overflow = _cannot_overflow(by_states, by_table)

    def weigh(
        operand: Tensor, logits: Any, constant: Tensor | None, tiles: list[Tensor], total: Tensor, d_block: Tensor
    ) -> Tensor | float:
        """Compute the weights of a block in its tiles, and add their sums and products; return the sum of the shifts."""

        def use(tile: Tensor, span: slice) -> None:
            kernels.exp_and_sum_(tile, total)
            if with_gradients:
                add_product(d_block, tile, factors[span])

        shift: Tensor | None = None
        unshifted = cannot_overflow and constant is None and (logits is None or logits.fits_unshifted())
        for number, (span, tile) in enumerate(zip(spans, tiles, strict=True)):
            torch.mm(operand, by_factors[span].T, out=tile)
            if logits is not None:
                logits.add(scratch, number)
            if constant is not None:
                tile.add_(constant[:, span])
            if unshifted:
                use(tile, span)
            else:
                peak = tile.amax(dim=1, keepdim=True)
                shift = peak if shift is None else torch.maximum(shift, peak)
        if shift is None:
            return 0.0
        for span, tile in zip(spans, tiles, strict=True):
            use(tile.sub_(shift), span)
        return shift.sum(dtype=states.dtype)

    d_coefficients = None if added is None else torch.zeros_like(added.coefficients)
    log_normalizers, target_scores = states.new_zeros(()), states.new_zeros(())
    d_states, d_columns = torch.zeros_like(states), table.new_zeros(width, classes)
    for start in range(0, rows, size):
        part = slice(start, start + size)
        block, target_rows = states[part], table[targets[part]]
        count = block.shape[0]
        tiles = [scratch[count * span.start : count * span.stop].view(count, -1) for span in spans]
        total = states.new_zeros(count, 1)
        logits = None if by_added is None else kernels.block_logits(by_added, part, targets[part], step, classes)
        constant = None if fixed is None else fixed.block(part)
        log_normalizers += weigh(by_states[part].to(operands), logits, constant, tiles, total, d_states[part])
        log_normalizers += total.log().sum()
        target_scores += (block * target_rows).sum()
        if by_added is not added:
            logits = None if added is None else kernels.block_logits(added, part, targets[part], step, classes)
        if logits is not None:
            target_scores += logits.of_targets()
        if not with_gradients:
            continue
        if logits is not None and d_coefficients is not None:
            d_coefficients[part] = logits.gradient(scratch, total)
        d_states[part].div_(total).sub_(target_rows)
        scaled_states = (block / total).T.to(operands)
        for span, tile in zip(spans, tiles, strict=True):
            add_product(d_columns[:, span], scaled_states, tile)
    d_table = d_columns.T.contiguous()
    if with_gradients:
        d_table.index_add_(0, targets, states, alpha=-1)
    return SoftmaxParts(log_normalizers, target_scores, d_states, d_table, d_coefficients)


class _LinearCrossEntropy(torch.autograd.Function):
    """Compute the gradients together with the loss."""

    @staticmethod
    def forward(  # noqa: PLR0913 - apply takes no keywords
        ctx: Any,
        states: Tensor,
        table: Tensor,
        targets: Tensor,
        coefficients: Tensor | None,
        added: AddedLogits | None,
        operands: torch.dtype,
        grad_enabled: bool,  # noqa: FBT001
        kernels: Kernels,
    ) -> Tensor:
        del coefficients  # those of `added`: named so that they get a gradient
        with_gradients = grad_enabled and any(ctx.needs_input_grad)  # set under no_grad too
        parts = softmax_parts(ScoreFactors(states, table, added), targets, operands, kernels, with_gradients=with_gradients)
        ctx.save_for_backward(*parts[2:])
        ctx.rows = len(states)
        return (parts.log_normalizers - parts.target_scores) / ctx.rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *scaled_gradients(ctx.saved_tensors, grad / ctx.rows), None, None, None, None


def scaled_gradients(gradients: Sequence[Tensor | None], scale: Tensor) -> tuple[Tensor | None, ...]:
    """Return those of the first four arguments of `forward`: states, table, targets and coefficients."""
    of_states, of_table, of_coefficients = (None if each is None else each * scale for each in gradients)
    return of_states, of_table, None, of_coefficients


def _tile_shape(rows: int, table: Tensor, *, ordered: bool) -> tuple[int, int]:
    """Return the rows of a block and the columns of its tiles; `ordered`: added logits are put in the order of the tiles."""
    classes = len(table)
    size = min(max(BLOCK_ELEMENTS // classes, MIN_ROWS), MAX_ROWS, max(rows, 1))
    elements = TILE_BYTES // table.element_size() if table.device.type == "cpu" else DEVICE_TILE_ELEMENTS
    if ordered and classes <= elements // ROWS_OF_ONE_TILE:
        size = min(size, elements // classes)  # one tile needs no order
    width = max(elements // size, 1)
    return size, width // COLUMNS * COLUMNS or width  # rows that start where a line of the cache does are faster


def exp_and_sum_(scores: Tensor, total: Tensor) -> None:
    """Replace scores [rows, n] by their exponentials, and add the sums of the rows to total [rows, 1]."""
    total += scores.exp_().sum(dim=1, keepdim=True, dtype=total.dtype)


def add_product(out: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to out, in place; the product of bfloat16 operands is rounded to bfloat16, the sum is of out's type."""
    if left.dtype == out.dtype:
        out.addmm_(left, right)
    else:
        out += left @ right


def _cannot_overflow(states: Tensor, table: Tensor) -> bool:
    # By the Cauchy-Schwarz inequality no score exceeds the product of the largest norms; if that is small, exp(score) needs no
    # shift by the row maximum. Only on a CPU: reading the number would synchronize with a GPU.
    if states.device.type != "cpu" or not states.numel():
        return False
    return float((states.norm(dim=1).amax() * table.norm(dim=1).amax()).detach()) <= SAFE_SCORE
